"""References of softmax attention (`kernels/attend.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from archc.ops.attention import Attend
from archc.ops.base import Type, Workload, element, size
from archc.ops.calls import Call, Calls, call, convert, product
from archc.ops.schedules import schedule

Types = tuple[Type, ...]


def attend(op: Attend, w: Workload, ins: Types, outs: Types) -> Calls:
    q, keys, values = ins[:3]
    return attention(
        w,
        keys=size(keys.shape[1], w),
        heads=q.fixed(2),
        groups=keys.fixed(2),
        width=q.last,
        value_width=values.last,
        here=element(q.dtype, w),
        window=op.window,
        sinks=len(ins) > 4,
        cold=w.cached,
    )


def attention(
    w: Workload,
    *,
    keys: int,
    heads: int,
    groups: int,
    width: int,
    value_width: int,
    here: int,
    window: int | None = None,
    sinks: bool = False,
    cold: bool = False,
    stored: bool = False,
) -> Calls:
    """What `attend` runs over ``keys`` keys, with scores ``stored`` where it must; ``cold`` keys come from a cache."""
    blocks = schedule("blocks")
    sizes = {"new": w.new, "heads": heads, "groups": groups, "width": width, "value_width": value_width}
    stored = stored or blocks.stores_scores(sinks=sinks, **sizes)
    calls, given = (), value_width
    if not stored and width != value_width:
        wide = max(width, value_width)
        few = w.batch * here * (keys * groups if value_width < width else w.new * heads + keys * groups)
        narrow = min(width, value_width)
        calls = (call("copy", few * narrow, few * wide, 1 if value_width < width else 2),)
        width = value_width = wide
    n = w.batch * w.new * heads * given * here
    fused: dict[str, Any] = {}
    fused |= {"groups": groups, "heads": heads, "width": width, "here": here, "cold": cold, "batch": w.batch}
    if w.new == 1 and window is None and not stored:
        return *calls, flash(queries=1, keys=keys, **fused)
    kept = keys - w.new
    if not stored and blocks.causal(new=w.new, keys=keys, window=window):
        padded = (call("copy", n, n),) if given < value_width else ()
        return *calls, flash(queries=w.new, keys=keys, causal=True, **fused), *padded
    listed = blocks.query_blocks(batch=w.batch, heads=heads, new=w.new, keys=keys, window=window, materialise=stored)
    missing = max(0, kept - w.past) if w.cached and window is not None else 0
    outs = 0
    for count, (start, stop, low, high) in runs(listed, w.batch * heads if stored else 0, window, missing):
        outs += 1
        step, span = stop - start, high - low
        shared = low >= missing
        masks = 0 if shared and step == 1 else step * span * (1 if shared else count)
        calls = *calls, *visible(count, step, span, masks, window=window, missing=missing > low)
        if count > 1 and w.batch > 1:  # pieces that overlap are laid one after the other
            rows = w.batch * count * here
            calls = *calls, call("copy", rows * span * groups * width, rows * span * groups * width)
            calls = *calls, call("copy", rows * span * groups * value_width, rows * span * groups * value_width)
        if stored:
            calls = (
                *calls,
                *softmax(
                    w.batch * count, step, span, heads, groups, width, value_width, here, masks, sinks=sinks, cold=cold
                ),
            )
        else:
            mask = (call("fill", 0, here, 2), call("map", masks + 2 * here, masks * here)) if masks else ()
            many: dict[str, Any] = {"batch": w.batch * count}
            whole = flash(queries=step, keys=span, mask=masks * here, **(fused | many))
            calls = *calls, *mask, whole
    # Heads come first where scores are stored, and what was padded has gaps: the matrix that follows wants rows
    laid = outs > 1 or (stored and w.new > 1) or given < value_width
    return (*calls, call("copy", n, n)) if laid else calls


def flash(
    *,
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    groups: int,
    width: int,
    here: int,
    cold: bool,
    causal: bool = False,
    mask: int = 0,
) -> Call:
    """Fused attention; of one token the heads that share a key stand in for queries."""
    if queries == 1 and heads != groups:
        heads, queries = groups, heads // groups
    rows, entries = batch * heads * queries * width * here, 2 * batch * keys * groups * width * here
    return Call(
        kind="attention",
        read=rows + entries + mask,
        written=rows,
        shape=(queries, width, keys, batch * heads),
        cold=entries if cold else 0,
        element=here,
        causal=causal,
    )


def visible(count: int, step: int, span: int, masks: int, *, window: int | None, missing: bool) -> Calls:
    """Which keys a block of queries sees, as booleans."""
    if not masks:
        return ()
    copies = masks // (step * span)
    small = call("fill", 0, 8 * (step + span)), call("map", 8 * copies, 8 * copies)
    rows, columns = 8 * copies * step, 8 * copies * span
    made = *small, call("fill", 0, 0, 2), call("map", rows, rows, 2), call("map", columns, columns)
    seen = *made, call("map", rows + columns, masks)
    if window is not None:
        seen = *seen, call("map", rows, rows), call("map", rows + columns, masks), call("map", 2 * masks, masks)
    if missing:
        seen = *seen, call("map", columns, columns // 8), call("map", masks, masks)
    return seen


def runs(
    blocks: list[tuple[int, int, int, int]], copies: int, window: int | None, missing: int
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Blocks in equal steps that run as one, as `attend._runs` groups them."""
    limit, at = schedule("blocks").LIMIT, 0
    while at < len(blocks):
        start, stop, low, high = blocks[at]
        step, most = stop - start, limit // max(1, copies * (stop - start) * (high - low))
        count = 1
        if window is not None and low >= missing:
            while at + count < len(blocks) and (count < most or not copies):
                shift = step * count
                if blocks[at + count] != (start + shift, stop + shift, low + shift, high + shift):
                    break
                count += 1
        yield count, blocks[at]
        at += count


def softmax(
    batch: int,
    new: int,
    keys: int,
    heads: int,
    groups: int,
    width: int,
    value_width: int,
    here: int,
    masks: int,
    *,
    sinks: bool,
    cold: bool,
) -> Calls:
    """Attention with stored scores; the heads that share a key are rows of one product."""
    rows, n, wide = new * heads // groups, batch * heads * new * keys, max(4, here)
    queries, few = batch * heads * new * width * here, batch * heads * new * wide
    entries, apart = batch * groups * keys * here, batch > 1 and groups > 1
    calls: Calls = (call("copy", queries, queries),) if new > 1 and (groups < heads or apart) else ()
    if apart:  # rows of a batch and its groups do not follow each other as one batched product needs them
        calls = *calls, *(call("copy", entries * n, entries * n) for n in (width, value_width))
    calls = *calls, product(rows, width, keys, batch=batch * groups, element=here, cold=entries * width if cold else 0)
    calls = *calls, *convert(n, here, wide), call("update", n * wide, n * wide)
    if masks:
        calls = *calls, call("map", masks, masks), call("update", n * wide + masks, n * wide)
    calls = *calls, call("reduce", n * wide, few)
    if sinks:
        calls = *calls, call("map", few + heads * wide, few)
    calls = *calls, call("update", n * wide + few, n * wide), call("exp", n * wide, n * wide)
    calls = *calls, call("reduce", n * wide, few)
    if sinks:
        calls = *calls, call("map", few + heads * wide, few), call("exp", few, few), call("map", 2 * few, few)
    given = batch * heads * new * value_width
    calls = (
        *calls,
        *convert(n, wide, here),
        product(rows, keys, value_width, batch=batch * groups, element=here, cold=entries * value_width if cold else 0),
    )
    return *calls, call("map", given * here + few, given * wide), *convert(given, wide, here)
