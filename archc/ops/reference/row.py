"""References of row-local ops (`kernels/rms_norm.py`, `rotate.py`, `swiglu.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, numel
from archc.ops.calls import Calls, Kind, call, convert
from archc.ops.row import Cast, Rotate, Swiglu

LARGE, PIECE = 1 << 16, 256
"""As in `kernels/rms_norm.py`: from how many elements on squares are not written, and channels summed at a time."""

Types = tuple[Type, ...]


def one(kind: Kind, w: Workload, ins: Types, outs: Types) -> Calls:
    """One call that reads all operands and writes all results."""
    return (call(kind, sum(nbytes(t, w) for t in ins), sum(nbytes(t, w) for t in outs)),)


def mean_square(n: int, width: int, rows: int, wide: int) -> Calls:
    """1 / sqrt(mean square + eps) of n elements in rows of a width."""
    size, few = n * wide, rows * wide
    if n < LARGE or width % PIECE:
        squares = call("map", size, size), call("reduce", size, few)
    else:
        part = size // PIECE
        squares = call("reduce", size, part), call("update", part, part), call("reduce", part, few)
        squares = *squares, call("update", few, few)
    return (*squares, call("update", few, few, 2))


def rms_norm(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    x = ins[0]
    n, here = numel(x.shape, w), element(x.dtype, w)
    if not n:
        return ()
    wide, rows = max(4, here), n // x.last
    calls = (*convert(n, here, wide), *mean_square(n, x.last, rows, wide), call("map", (n + rows) * wide, n * wide))
    if len(ins) > 1:
        calls = *calls, call("update", n * wide + nbytes(ins[1], w), n * wide)
    return *calls, *convert(n, wide, here)


def inverse_rms(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    (x,) = ins
    n, here = numel(x.shape, w), element(x.dtype, w)
    return *convert(n, here, max(4, here)), *mean_square(n, x.last, n // x.last, max(4, here))


def swiglu(op: Swiglu, w: Workload, ins: Types, outs: Types) -> Calls:
    n, here = numel(ins[0].shape, w), element(ins[0].dtype, w)
    wide = max(4, here)
    size = n * wide
    calls = convert(n, here, wide, 2)
    if op.limit is not None:
        calls = *calls, call("map", size, size, 2)
    if op.alpha == 1:
        calls = *calls, call("exp", size, size)
    else:
        calls = *calls, call("map", size, size), call("exp", size, size), call("map", 2 * size, size)
    if op.shift:
        calls = *calls, call("map", size, size)
    return *calls, call("update", 2 * size, size), *convert(n, wide, here)


def gelu(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return one("exp", w, ins, outs)


sigmoid = silu = tanh = gelu


def softmax(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return one("softmax", w, ins, outs)


def rotate(op: Rotate, w: Workload, ins: Types, outs: Types) -> Calls:
    x, angles = ins
    n, here, pairs = numel(x.shape, w), element(x.dtype, w), numel(angles.shape, w) // 2
    turned = 2 * angles.fixed(-2)
    part, wide = n * turned // x.last, max(4, here)
    if not n:  # groups that no token completes
        return ()
    if op.pairs == "interleaved" and turned != x.last and here >= 4 and x.last % 2 == 0:
        # A copy whose pairs are multiplied where they lie
        moved = part * here
        return call("copy", n * here, n * here), *_angles(op, pairs), call("complex", moved + pairs * 8, moved)
    calls = convert(part, here, wide)
    size = part * wide
    if op.pairs == "half":
        both = 2 * pairs * 4
        calls = *calls, *((call("map", pairs * 4, pairs * 4),) if op.inverse else ())
        calls = *calls, call("copy", both, both, 2), call("map", pairs * 4, pairs * 4)
        calls = *calls, call("map", size + both, size), call("copy", size, size)
        calls = *calls, call("update", size + both, size), call("update", 2 * size, size)
    else:
        calls = *calls, *_angles(op, pairs), call("complex", size + pairs * 8, size)
    calls = *calls, *convert(part, wide, here)
    return calls if turned == x.last else (*calls, call("copy", n * here, n * here))


def _angles(op: Rotate, pairs: int) -> Calls:
    """Conjugates, where it turns back."""
    return (call("complex", pairs * 8, pairs * 8),) if op.inverse else ()


def cast(op: Cast, w: Workload, ins: Types, outs: Types) -> Calls:
    return convert(numel(ins[0].shape, w), element(ins[0].dtype, w), element(outs[0].dtype, w))
