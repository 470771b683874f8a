"""References of sparse attention and index scores (`kernels/sparse_attention.py`, `index_topk.py`)."""

from __future__ import annotations

from collections import Counter

from archc.ops.base import Type, Workload, element, nbytes, size
from archc.ops.calls import Calls, averaged, call, convert, product, repeated
from archc.ops.reference.expert import topk_lowest
from archc.ops.schedules import schedule
from archc.ops.sparse import IndexTopk, SparseAttention

Types = tuple[Type, ...]


def index_topk(op: IndexTopk, w: Workload, ins: Types, outs: Types) -> Calls:
    q, keys = ins[:2]
    entries, k = size(keys.shape[1], w), size(outs[0].shape[2], w)
    return call("fill", 0, nbytes(outs[0], w)), *among_all(op, w, q, k, w.new, entries)


def seen_by(w: Workload) -> Calls:
    """How many entries each query sees."""
    slots = 8 * w.batch * w.new
    return call("fill", 0, 8 * w.new), call("map", slots, slots, 3)


def among_all(op: IndexTopk, w: Workload, q: Type, k: int, new: int, entries: int) -> Calls:
    """The k best for the first ``new`` queries among all that they see of so many entries."""
    heads, width, here = q.fixed(2), q.last, element(q.dtype, w)
    cold = w.batch * entries * width * here if w.cached else 0
    calls: Calls = *seen_by(w), *convert(w.batch * entries * width, here, max(4, here))
    listed = Counter(
        (stop - start, seen)
        for start, stop, seen in schedule("sparse_blocks").index_blocks(
            batch=w.batch, heads=heads, past=w.past, new=new, every=op.every, entries=entries
        )
        if seen
    )
    for (rows, seen), times in averaged(listed):
        calls = *calls, *repeated(_scores(w, rows, seen, heads, width, here, min(k, seen), cold), times)
    return calls


def scored(batch: int, rows: int, heads: int, width: int, columns: float, wide: int, mixes: int, cold: float) -> Calls:
    """Scores of so many keys of each of a ``batch``, for ``rows`` heads of queries: products of every head, so many
    keys at a time as fit, then their sum for each of all ``mixes`` queries.
    """
    step = max(1, schedule("sparse_blocks").LIMIT // (batch * rows))
    whole, rest = divmod(columns, step)
    calls: Calls = ()
    for some, times in ((step, whole), (rest, 1 if rest else 0)):
        if times:
            part = batch * rows * some * wide
            once = (
                product(rows, width, some, batch=batch, element=wide, cold=cold),
                call("update", part, part),
                product(1, heads, some, batch=mixes, element=wide),
            )
            calls = *calls, *repeated(once, times)
    scores = mixes * columns * wide
    return (*calls, call("copy", scores, scores)) if whole + bool(rest) > 1 else calls


def _scores(w: Workload, rows: int, seen: float, heads: int, width: int, here: int, k: float, cold: int) -> Calls:
    """A block of queries against the entries that it sees, and the best of these."""
    wide, n = max(4, here), w.batch * rows
    calls: Calls = *convert(n * heads, min(4, here), wide), *convert(n * heads * width, here, wide)
    if w.batch > 1 and rows < w.new and here == wide:  # weights of several rows do not lie as one
        calls = *calls, call("copy", n * heads * wide, n * heads * wide)
    calls = *calls, *scored(w.batch, rows * heads, heads, width, seen, wide, n, cold)
    scores = n * seen * wide
    best = 8 * n * k
    if w.new == 1:
        return *calls, *topk_lowest(n * seen, seen, k, wide), call("copy", best, best)
    outside = call("fill", 0, 8 * seen), call("map", 8 * (seen + n), n * seen)
    hidden = *outside, call("update", scores + n * seen, scores)
    after = call("map", best + 8 * n, n * k), call("update", best + n * k, best), call("copy", best, best)
    return *calls, *hidden, *topk_lowest(n * seen, seen, k, wide), *after


def sparse_attention(op: SparseAttention, w: Workload, ins: Types, outs: Types) -> Calls:
    q, recent = ins[:2]
    sinks, far, picked = op._optional(ins[3:])  # noqa: SLF001 - the op's own reading of its operands
    heads, dim, here = q.fixed(2), q.last, element(q.dtype, w)
    entries = 0 if far is None else size(far.shape[1], w)
    picks = None if picked is None or not entries else size(picked.shape[2], w)
    rows_kept = size(recent.shape[1], w) - w.new
    plan = schedule("sparse_blocks").attention_blocks(
        batch=w.batch,
        heads=heads,
        dim=dim,
        past=w.past,
        new=w.new,
        kept=rows_kept,
        window=op.window,
        every=op.every,
        entries=entries,
        picks=picks,
    )
    calls: Calls = () if sinks is not None else (call("fill", 0, 4 * heads),)
    if plan.look > rows_kept:
        n = w.batch * dim * here
        calls = *calls, call("copy", n * (rows_kept + w.new), n * (plan.look + w.new))
    # Blocks whose first band reads rows before the first token hide these too
    listed = Counter(
        (b.stop - b.start, b.rows, rows_kept - plan.look + b.start < rows_kept - w.past, b.entries) for b in plan.blocks
    )
    for (new, rows, early, seen), times in averaged(listed):
        once = _block(op, w, new, rows, seen, heads, dim, here, plan.look, picks, plan.gathered, early=early)
        calls = *calls, *repeated(once, times)
    if len(plan.blocks) > 1:
        calls = *calls, call("copy", nbytes(q, w), nbytes(q, w))
    return calls


def _block(
    op: SparseAttention,
    w: Workload,
    new: int,
    rows: int,
    seen: float,
    heads: int,
    dim: int,
    here: int,
    look: int,
    picks: int | None,
    gathered: bool,
    *,
    early: bool,
) -> Calls:
    """Queries in bands of ``rows``, each beside ``look`` window rows more, and the ``seen`` entries of a block."""
    wide, batch, bands, span = max(4, here), w.batch, new // rows, look + rows
    tokens, n = batch * new, batch * (new // rows)
    given = tokens * heads * dim * wide
    calls: Calls = *convert(tokens * heads * dim, here, wide), *convert(batch * (look + new) * dim, here, wide)
    # Some queries of several rows of a batch do not lie as one batch of matrices
    if batch > 1 and new != w.new and here == wide and (bands > 1 or (gathered and seen)):
        calls = *calls, call("copy", given, given)
    if batch > 1 and bands > 1:  # bands overlap: of several rows of a batch they are laid one after the other
        calls = *calls, call("copy", n * span * dim * wide, n * span * dim * wide)
    near = n * rows * heads * span
    calls = *calls, product(rows * heads, dim, span, batch=n, element=wide)
    hidden = rows * span if rows > 1 else 0
    if rows > 1:
        steps = call("fill", 0, 8 * span), call("fill", 0, 8 * rows), call("map", 8 * rows, 8 * rows)
        calls = *calls, *steps, call("map", 8 * (span + rows), hidden, 2), call("map", 2 * hidden, hidden)
    else:
        calls = *calls, call("fill", 0, 8 * span)
    if early:
        missing = bands * span
        calls = *calls, call("fill", 0, 8 * bands), call("map", 8 * (span + bands), 8 * missing)
        calls = *calls, call("map", 8 * missing, missing)
        if hidden:
            calls = *calls, call("map", hidden + missing, hidden * bands)
        hidden = hidden * bands or missing
    if hidden:
        calls = *calls, call("update", near * wide + hidden, near * wide)
    chosen = gathered and picks is not None
    pairs = 0
    if seen:
        pairs = tokens * heads * seen
        entry = (tokens if chosen else batch) * seen * dim
        cold = entry * here if w.cached else 0
        if chosen:
            ids = 8 * tokens * seen
            if batch > 1:
                calls = *calls, call("fill", 0, 8 * batch), call("map", 8 * batch, 8 * batch), call("map", ids, ids)
            calls = *calls, call("map", ids, ids), call("rows", entry * here + ids, entry * here)
            calls = *calls, *convert(entry, here, wide), call("map", ids, ids // 8)
            calls = *calls, product(heads, dim, seen, batch=tokens, element=wide)
        else:
            calls = *calls, *convert(entry, here, wide)
            if picks is not None:
                marks = tokens * (seen + 1)
                ids = 8 * tokens * picks
                calls = *calls, call("fill", 0, marks), call("map", ids, ids // 8), call("fill", 0, 8)
                calls = *calls, call("map", ids, ids), call("pick", ids, ids)
            else:
                calls = *calls, call("fill", 0, 8 * seen)
                if new > 1:
                    calls = *calls, call("fill", 0, 8 * new), call("map", 8 * new, 8 * new)
                    calls = *calls, call("map", 8 * (seen + new), new * seen)
            calls = *calls, product(new * heads, dim, seen, batch=batch, element=wide, cold=cold)
        if picks is not None or new > 1:
            masks = seen * (new if picks is None else tokens)
            calls = *calls, call("update", pairs * wide + masks, pairs * wide)
    both = (near + pairs) * wide
    whole = both + tokens * heads * wide
    calls = *calls, call("copy", both + heads * wide, whole), call("softmax", whole, whole)
    calls = *calls, product(rows * heads, span, dim, batch=n, element=wide)
    if seen:
        many = (heads, tokens) if chosen else (new * heads, batch)
        calls = *calls, product(many[0], seen, dim, batch=many[1], element=wide, add=given)
    return *calls, *convert(tokens * heads * dim, wide, here)
