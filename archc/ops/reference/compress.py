"""References of compressors (`kernels/groups.py`, `group_pool.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, numel, size
from archc.ops.calls import Calls, call, convert
from archc.ops.compress import GroupPool, Groups

Types = tuple[Type, ...]


def opened(w: Workload, count: int) -> Calls:
    """Where each of ``count`` groups of a row begins."""
    few, ids = 8 * w.batch, 8 * w.batch * count
    begins = call("fill", 0, 8 * count), call("map", few, few), call("map", ids, ids, 4), call("map", few, few)
    return *begins, call("map", ids, ids // 8), call("map", ids + ids // 8, ids)


def groups(op: Groups, w: Workload, ins: Types, outs: Types) -> Calls:
    tokens, exists = outs
    count = size(tokens.shape[1], w)
    if not count:
        return ()
    rows, n = nbytes(tokens, w), numel(exists.shape, w)
    ids = 8 * w.batch * count
    start = opened(w, count)
    if not w.cached:
        seen = call("map", ids, ids // 8)
        if not op.overlap:
            return *start, seen
        half = rows // 2
        first = half // count
        moved = call("fill", 0, first), call("copy", half, half), call("copy", rows, rows), call("copy", n, n)
        return *start, seen, *moved, call("map", ids, ids // 8), call("map", n, n // 2)
    wanted = call("fill", 0, 8 * n // (w.batch * count)), call("map", ids, 8 * n)
    row = call("map", 8 * n, 8 * n, 4), call("fill", 0, 8 * w.batch), call("rows", rows + 8 * n, rows)
    return *start, *wanted, *row, call("map", 8 * n, n), call("map", ids, ids // 8), call("map", n, n)


def group_pool(op: GroupPool, w: Workload, ins: Types, outs: Types) -> Calls:
    kv, score, exists, bias = ins
    n, here = numel(kv.shape, w), element(kv.dtype, w)
    if not n:
        return ()
    wide, few = max(4, here), numel(exists.shape, w)
    casts = *convert(n, here, wide), *convert(n, element(score.dtype, w), wide)
    size_, out = n * wide, numel(outs[0].shape, w)
    if op.overlap:
        half = size_ // 2
        added = call("map", half + nbytes(bias, w), half, 2), call("copy", half, half, 2)
    else:
        added, half = (call("map", size_ + nbytes(bias, w), size_),), size_
    return (
        *casts,
        *added,
        call("map", few, few),
        call("map", half + few, half),
        call("softmax", half, half),
        call("map", half + few, half, 2),
        call("map", 2 * half, half),
        call("reduce", half, out * wide),
        *convert(out, wide, here),
    )
