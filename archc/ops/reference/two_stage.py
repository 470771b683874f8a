"""References of a search in two stages (`kernels/block_means.py`, `two_stage_topk.py`)."""

from __future__ import annotations

from collections import Counter

from archc.ops.base import Type, Workload, element, nbytes, size
from archc.ops.calls import Calls, averaged, call, convert, repeated
from archc.ops.reference.compress import opened
from archc.ops.reference.expert import topk_lowest
from archc.ops.reference.sparse import among_all, scored, seen_by
from archc.ops.schedules import schedule
from archc.ops.two_stage import BlockMeans, TwoStageTopk

Types = tuple[Type, ...]


def block_means(op: BlockMeans, w: Workload, ins: Types, outs: Types) -> Calls:
    count, channels, here = size(outs[0].shape[1], w), outs[0].last, element(ins[0].dtype, w)
    if not count:
        return ()
    found, made, wide = w.batch * count * op.block * channels, w.batch * count * channels, max(4, here)
    mean = *convert(found, here, wide), call("reduce", found * wide, made * wide), *convert(made, wide, here)
    if not w.cached:
        return mean
    few, ids = 8 * w.batch * count, 8 * w.batch * count * op.block
    where = call("map", few, few, 2), call("fill", 0, 8 * op.block), call("map", few + 8 * op.block, ids)
    rows = call("map", ids, ids), call("fill", 0, 8 * w.batch), call("rows", found * here + ids, found * here)
    return *opened(w, count), *where, *rows, *mean


def two_stage_topk(op: TwoStageTopk, w: Workload, ins: Types, outs: Types) -> Calls:
    q, keys = ins[:2]
    heads, width, entries, here = q.fixed(2), q.last, size(keys.shape[1], w), element(q.dtype, w)
    flat, blocks = schedule("sparse_blocks").two_stage_blocks(
        batch=w.batch,
        heads=heads,
        width=width,
        past=w.past,
        new=w.new,
        every=op.every,
        entries=entries,
        block=op.block,
        keep=op.keep,
    )
    most, wide = size(outs[0].shape[2], w), max(4, here)
    calls: Calls = (call("fill", 0, nbytes(outs[0], w)),)
    if flat:
        calls = *calls, *among_all(op, w, q, most, flat, min(entries, (w.past + flat) // op.every))
    if flat == w.new:
        return calls
    means = w.batch * (entries // op.block) * width
    calls = *calls, *convert(means, here, wide)
    if w.new == 1:
        return *calls, *_one(op, w, heads, width, entries, here, most)
    calls = *calls, *seen_by(w)
    listed = Counter((stop - start, seen) for start, stop, seen in blocks)
    for (rows, seen), times in averaged(listed):
        calls = *calls, *repeated(_block(op, w, rows, seen, heads, width, here, most), times)
    return calls


def _one(op: TwoStageTopk, w: Workload, heads: int, width: int, entries: int, here: int, most: int) -> Calls:
    """One query of each row, which sees all entries."""
    wide, n = max(4, here), w.batch
    newest = (entries - 1) // op.block
    columns = (op.keep - 1) * op.block + entries - newest * op.block
    calls: Calls = *convert(n * heads, here, wide), *convert(n * heads * width, here, wide)
    cold = n * (newest - 1) * width * here if w.cached else 0
    calls = *calls, *scored(n, heads, heads, width, newest - 1, wide, n, cold)
    few = op.keep - 2
    calls = *calls, *topk_lowest(n * (newest - 1), newest - 1, few, wide), call("sort", 8 * n * few, 16 * n * few)
    ids = 8 * n * op.keep
    ends = call("copy", ids - 16 * n, ids - 8 * n), call("copy", ids - 8 * n, ids)
    calls = *calls, call("map", ids - 16 * n, ids - 16 * n), *ends
    calls = (
        *calls,
        call("map", ids, ids),
        call("fill", 0, 8 * op.block),
        call("map", ids + 8 * op.block, ids * op.block),
    )
    calls = *calls, *_gathered(n, n * columns, width, here)
    calls = *calls, *scored(n, heads, heads, width, columns, wide, n, 0)
    k = min(most, columns)
    best = 8 * n * k
    return *calls, *topk_lowest(n * columns, columns, k, wide), call("pick", 2 * best, best), call("copy", best, best)


def _gathered(batch: int, found: int, width: int, here: int) -> Calls:
    """Rows of keys by their ids, in at least float32."""
    rows = call("rows", found * width * here + 8 * (batch + found), found * width * here)
    return call("fill", 0, 8 * batch), rows, *convert(found * width, here, max(4, here))


def _block(
    op: TwoStageTopk, w: Workload, rows: int, seen: float, heads: int, width: int, here: int, most: int
) -> Calls:
    """A block of queries: scores of block keys, the entries of the best, their scores, and the best of these."""
    wide, n, keep, columns = max(4, here), w.batch * rows, op.keep, op.keep * op.block
    apart = w.batch > 1 and rows < w.new and here == wide  # queries of several rows do not lie as one
    calls: Calls = *convert(n * heads, here, wide), *convert(n * heads * width, here, wide)
    if apart:
        calls = *calls, call("copy", n * heads * wide, n * heads * wide)
    calls = *calls, *scored(w.batch, rows * heads, heads, width, seen, wide, n, 0)
    # Which blocks a query sees, and which it always takes
    each, one, pairs = 8 * n, 8 * seen, n * seen
    sizes = call("fill", each, each), call("map", 2 * each, each, 2), call("map", each, each, 2), call("map", each, n)
    places = call("fill", 0, one), call("map", one, one), call("map", one, seen, 2), call("map", each, each)
    hidden = call("map", one + each, pairs, 2), call("map", pairs + seen, pairs, 2)
    always = call("map", n, n), call("map", pairs + n, pairs)
    scores = pairs * wide
    marked = call("map", scores + pairs, scores), call("update", scores + pairs, scores)
    newest = call("fill", 0, 4, 2), call("map", n + 8, 4 * n), *convert(n, 4, wide)
    whole = n * (seen + 1)
    calls = *calls, *sizes, *places, *hidden, *always, *marked, *newest, call("copy", whole * wide, whole * wide)
    # The ids of their entries
    calls = *calls, *topk_lowest(whole, seen + 1, keep, wide), call("sort", 8 * n * keep, 16 * n * keep)
    ids, some, found = 8 * n * keep, n * keep, n * columns
    last = call("map", ids, some), call("map", ids, ids), call("map", some + each + ids, ids), call("map", ids, some)
    there = call("map", ids + each, some), call("map", 2 * some + n, some), call("map", 2 * some, some)
    first = call("map", ids, ids), call("map", ids + each, ids), call("fill", 0, 8 * op.block)
    listed = call("map", ids + 8 * op.block, 8 * found), call("map", some, some)
    calls = *calls, *last, *there, *first, *listed, call("update", 8 * found + some, 8 * found)
    calls = *calls, call("map", 8 * found, 8 * found), *_gathered(w.batch, found, width, here)
    if apart:
        calls = *calls, call("copy", n * heads * width * wide, n * heads * width * wide)
    calls = *calls, *scored(n, heads, heads, width, columns, wide, n, 0)
    missing = call("map", 8 * found, found), call("map", 8 * found + each, found), call("map", 2 * found, found)
    k = min(most, columns)
    best = 8 * n * k
    picked = call("pick", 2 * best, best), call("pick", best + n * k, n * k), call("update", best + n * k, best)
    calls = *calls, *missing, call("update", found * (wide + 1), found * wide)
    return *calls, *topk_lowest(found, columns, k, wide), *picked, call("copy", best, best)
