"""References of attention over blocks of tokens (`kernels/token_blocks.py`, `compressed_attention.py`,
`block_attention.py`).
"""

from __future__ import annotations

from collections import Counter

from archc.ops.base import Type, Workload, element, nbytes, numel, size
from archc.ops.blocks import BlockAttention, CompressedAttention, TokenBlocks
from archc.ops.calls import Calls, averaged, call, convert, product, repeated
from archc.ops.reference.compress import opened
from archc.ops.reference.expert import topk_lowest
from archc.ops.schedules import schedule

Types = tuple[Type, ...]


def token_blocks(op: TokenBlocks, w: Workload, ins: Types, outs: Types) -> Calls:
    count = size(outs[0].shape[1], w)
    if not count:
        return ()
    rows, here, ids = nbytes(outs[0], w), 8 * w.batch * count, 8 * w.batch * count * op.size
    laid = (call("copy", rows, rows),) if outs[0].fixed(2) > 1 else ()
    if not w.cached:
        whole = rows // op.size * op.every
        return call("copy", whole, whole + rows // (op.size * count) * (op.size - op.every)), *laid
    wanted = *opened(w, count), call("fill", 0, 8 * op.size), call("map", here + 8 * op.size, ids)
    row = call("map", ids, ids, 3), call("fill", 0, 8 * w.batch), call("rows", rows + ids + 8 * w.batch, rows)
    return *wanted, *row, *laid


def compressed_attention(op: CompressedAttention, w: Workload, ins: Types, outs: Types) -> Calls:
    q, keys, values = ins[:3]
    heads, groups, here = q.fixed(2), keys.fixed(2), element(q.dtype, w)
    entries, picks = size(keys.shape[1], w), size(outs[1].shape[3], w)
    wide, apart = max(4, here), w.batch > 1 and groups > 1
    calls: Calls = call("fill", 0, nbytes(outs[0], w)), call("fill", 0, nbytes(outs[1], w))
    for t in (keys, values):
        n = numel(t.shape, w)
        calls = *calls, *convert(n, here, wide)
        if apart and n:  # rows of a batch and its groups do not follow each other as one batched product needs them
            calls = *calls, call("copy", n * wide, n * wide)
    blocks = schedule("sparse_blocks").index_blocks(
        batch=w.batch, heads=heads, past=w.past, new=w.new, every=op.every, entries=entries
    )
    for (n, stop), times in averaged(Counter((stop - start, w.past + stop) for start, stop, _ in blocks)):
        seen = stop // op.every if isinstance(stop, int) else stop / op.every
        once: Calls = (call("fill", 0, 0),)  # the weights of no entries
        if seen:
            once = _weighed(w, n, seen, heads, groups, q.last, values.last, here)
        there = -(-stop // op.select) if isinstance(stop, int) else stop / op.select
        once = *once, *_chosen(op, w, n, seen, there, groups, wide, min(picks, there))
        calls = *calls, *repeated(once, times)
    return calls


def _weighed(w: Workload, n: int, seen: float, heads: int, groups: int, width: int, value: int, here: int) -> Calls:
    """A block of queries against the entries that it has, and the weights summed over the heads of a group."""
    wide, batch, each = max(4, here), w.batch, heads // groups
    rows, cold = batch * n * heads, batch * groups * seen * here if w.cached else 0
    calls: Calls = convert(rows * width, here, wide)
    # Queries and heads of a group lie as rows of one matrix, and rows of a batch as one batched product
    merged = groups == 1 or n == 1 or each == 1
    batched = batch == 1 or groups == 1 or (n == 1 and (w.new == 1 or here != wide))
    if not (merged and batched):
        calls = *calls, call("copy", rows * width * wide, rows * width * wide)
    calls = *calls, call("fill", 0, 8 * seen), call("map", 8 * seen, seen)
    if n > 1:
        ages = call("fill", 0, 8 * n), call("map", 8 * n, 8 * n), call("map", 8 * (seen + n), n * seen)
        calls = *calls, *ages, call("map", seen + n * seen, n * seen)
    weights, hidden = rows * seen * wide, n * seen
    hide = call("update", weights + hidden, weights)
    calls = *calls, product(n * each, width, seen, batch=batch * groups, element=wide, cold=cold * width), hide
    calls = *calls, call("softmax", weights, weights), hide
    given = rows * value * wide
    calls = *calls, product(n * each, seen, value, batch=batch * groups, element=wide, cold=cold * value)
    if not merged:
        calls = *calls, call("copy", given, given)
    return *calls, call("copy", given, rows * value * here), call("reduce", weights, weights // each)


def _chosen(
    op: CompressedAttention, w: Workload, n: int, seen: float, there: float, groups: int, wide: int, k: float
) -> Calls:
    """Blocks scored by the weights of entries, and the best of them."""
    tokens, pieces, parts = w.batch * n * groups, op.select // op.every, op.size // op.every
    mass = tokens * (max(0, seen - parts + 1) if op.mapping == "plus" else seen) * wide
    many, scores = tokens * pieces * there * wide, tokens * there * wide
    calls: Calls = (call("copy", mass, many + tokens * (parts - 1) * wide),)
    if parts > 1:
        calls = *calls, call("map", 2 * many, many, parts - 1)
    calls = *calls, call("reduce", many, scores)
    calls = *calls, call("fill", 0, 8 * n), call("map", 8 * n, 8 * n)  # where queries stand
    calls = *calls, call("fill", 0, 8 * there), call("map", 8 * n, 8 * n)
    later = call("map", 8 * (n + there), n * there)
    calls = *calls, later, call("map", 8 * there, there), call("map", (n + 1) * there, n * there)
    hide = call("map", scores + n * there, scores)
    calls = *calls, hide, later, hide, *topk_lowest(tokens * there, there, k, wide)
    best = tokens * k
    return *calls, call("map", 8 * (best + n), best), call("map", 9 * best, 8 * best), call("copy", 8 * best, 8 * best)


def block_attention(op: BlockAttention, w: Workload, ins: Types, outs: Types) -> Calls:
    q, keys, values, picks = ins[:4]
    heads, groups, here, many = q.fixed(2), keys.fixed(2), element(q.dtype, w), size(picks.shape[3], w)
    blocks = schedule("sparse_blocks").picked_blocks(
        batch=w.batch,
        heads=heads,
        groups=groups,
        width=max(q.last, values.last),
        new=w.new,
        columns=many * op.size,
    )
    calls: Calls = ()
    for n, times in Counter(stop - start for start, stop in blocks).items():
        calls = *calls, *repeated(_met(op, w, n, many, heads, groups, q.last, values.last, here), times)
    return calls


def _met(
    op: BlockAttention, w: Workload, n: int, many: int, heads: int, groups: int, width: int, value: int, here: int
) -> Calls:
    """A block of queries and the tokens of their blocks."""
    wide, batch, each, columns = max(4, here), w.batch, heads // groups, many * op.size
    tokens, rows = batch * n * groups, batch * n * heads
    met, few = tokens * columns, 8 * tokens * many
    calls: Calls = call("fill", 0, 8 * op.size), call("map", few, few), call("map", few + 8 * op.size, 8 * met)
    calls = *calls, call("fill", 0, 8 * n), call("map", 8 * met, met), call("map", 8 * met, 8 * met)
    calls = *calls, call("map", 8 * (met + n), 8 * met), call("map", 8 * (met + n), met), call("map", 2 * met, met)
    calls = *calls, *convert(rows * width, here, wide)
    if batch > 1 and n < w.new and here == wide:
        calls = *calls, call("copy", rows * width * wide, rows * width * wide)
    ids = 8 * met
    place = call("map", ids, ids), call("fill", 0, 8 * groups), call("map", ids + 8 * groups, ids)

    def gathered(channels: int) -> Calls:
        found = met * channels
        small: Calls = ()
        if batch > 1:
            small = call("fill", 0, 8 * batch), call("map", 8 * batch, 8 * batch), call("map", ids + 8 * batch, ids)
        return *small, call("rows", found * here + ids, found * here), *convert(found, here, wide)

    weights = rows * columns * wide
    hide = call("update", weights + met, weights)
    calls = *calls, *place, *gathered(width), product(each, width, columns, batch=tokens, element=wide), hide
    calls = *calls, call("softmax", weights, weights), hide, *gathered(value)
    calls = *calls, product(each, columns, value, batch=tokens, element=wide)
    return *calls, call("copy", rows * value * wide, rows * value * here)
