"""References of hyper-connections (`kernels/streams.py`, `sinkhorn.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, numel
from archc.ops.calls import Calls, call, convert, product
from archc.ops.reference.row import one
from archc.ops.streams import Sinkhorn

BLOCK = 2048
"""As in `kernels/sinkhorn.py`."""

Types = tuple[Type, ...]


def collapse(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    streams, weights = ins
    m, here = weights.last, element(streams.dtype, w)
    tokens = numel(weights.shape, w) // m
    return *convert(tokens * m, element(weights.dtype, w), here), product(
        1, m, streams.last, batch=tokens, element=here
    )


def mix(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    streams, comb, y, post = ins
    m, here, n = comb.last, element(streams.dtype, w), nbytes(streams, w)
    tokens = numel(post.shape, w) // m
    casts = (c for t in (comb, y, post) for c in convert(numel(t.shape, w), element(t.dtype, w), here))
    spread = n + (numel(y.shape, w) + tokens * m) * here
    return *casts, product(m, m, streams.last, batch=tokens, element=here), call("update", spread, n)


def only(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    n = nbytes(outs[0], w)
    return call("fill", 0, n), call("fill", 0, n // outs[0].last)


def filled(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return (call("fill", 0, nbytes(outs[0], w)),)


def sinkhorn(op: Sinkhorn, w: Workload, ins: Types, outs: Types) -> Calls:
    (x,) = ins
    n, m = nbytes(x, w), x.last
    here, tokens = element(x.dtype, w), numel(x.shape, w) // m**2
    if op.eps == 0:
        return (call("softmax", n, n, 2 * op.iters),)
    calls: Calls = (call("softmax", n, n), call("map", n, n))
    for rows, times in ((BLOCK, tokens // BLOCK), (tokens % BLOCK, 1)):
        if rows and times:
            part, passes, width = rows * (m * m + 1) * here, (2 * op.iters - 1) * times, m * m + 1
            calls = (
                *calls,
                call("copy", rows * m * m * here, part, times),
                product(rows, width, width, element=here, times=passes),
                call("update", 2 * part, part, passes),
            )
    return *calls, call("copy", n, n)


def normalize(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    (x,) = ins
    n, few = nbytes(x, w), nbytes(x, w) // x.last
    return call("reduce", n, few), call("map", few, few), call("map", n + few, n)


def sum(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return one("reduce", w, ins, outs)


def signed_sqrt(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    n = nbytes(ins[0], w)
    return call("map", n, n, 4), call("map", 2 * n, n)
