"""Reference of attention over picked latents (`kernels/sparse_latent_attend.py`)."""

from __future__ import annotations

from collections import Counter

from archc.ops.base import Type, Workload, element, nbytes, size
from archc.ops.calls import Calls, averaged, call, convert, product, repeated
from archc.ops.schedules import schedule
from archc.ops.sparse_latent import SparseLatentAttend

Types = tuple[Type, ...]


def sparse_latent_attend(op: SparseLatentAttend, w: Workload, ins: Types, outs: Types) -> Calls:
    q, entries, weight, _, picks = ins
    heads, width, here = q.fixed(2), entries.last, element(q.dtype, w)
    most = size(picks.shape[2], w)
    gathered, blocks = schedule("sparse_blocks").latent_blocks(
        batch=w.batch,
        heads=heads,
        width=width,
        past=w.past,
        new=w.new,
        entries=size(entries.shape[1], w),
        picks=most,
    )
    own = nbytes(weight, w) / len(blocks)
    listed = Counter((stop - start, columns) for start, stop, columns in blocks)
    calls: Calls = ()
    for (new, columns), times in averaged(listed):
        once = _block(op, w, new, columns, most, heads, width, weight.last, outs[0].last, here, own, gathered=gathered)
        calls = *calls, *repeated(once, times)
    return calls


def _block(
    op: SparseLatentAttend,
    w: Workload,
    new: int,
    columns: float,
    picks: int,
    heads: int,
    width: int,
    latent: int,
    values: int,
    here: int,
    own: float,
    *,
    gathered: bool,
) -> Calls:
    """Queries mapped to latents, the entries that they meet, a softmax in place, and what they read mapped back."""
    wide, tokens = max(4, here), w.batch * new
    share, rows = own / (op.nope + values), tokens * heads * width
    calls: Calls = (
        product(tokens, op.nope, latent, batch=heads, element=here, cold=share * op.nope),
        call("copy", rows * here, rows * here),
        *convert(rows, here, wide),
    )
    met, ids = (tokens if gathered else w.batch) * columns * width, 8 * tokens * picks
    cold = met * here if w.cached else 0
    if gathered:
        calls = *calls, call("map", ids, ids // 8), call("map", ids + ids // 8 + 8 * tokens, ids), call("map", ids, ids)
        if w.batch > 1:
            calls = *calls, call("fill", 0, 8 * w.batch), call("map", 8 * w.batch, 8 * w.batch), call("map", ids, ids)
        calls = *calls, call("map", ids, ids // 8), call("rows", met * here + ids, met * here)
    else:
        marks = tokens * (columns + 1)
        calls = *calls, call("fill", 0, marks), call("map", ids, ids // 8), call("fill", 0, 8), call("map", ids, ids)
        calls = *calls, call("pick", ids, ids)
    calls = *calls, *convert(met, here, wide)
    n, m = (tokens, heads) if gathered else (w.batch, new * heads)
    logits = n * m * columns * wide
    few, read = n * m * wide, tokens * heads * values * here
    return (
        *calls,
        product(m, width, columns, batch=n, element=wide, cold=0 if gathered else cold),
        call("update", logits + tokens * columns, logits),
        call("reduce", logits, few),
        call("update", few, few),
        call("update", logits + few, logits),
        call("exp", logits, logits),
        product(m, columns, latent, batch=n, element=wide),
        *convert(tokens * heads * latent, wide, here),
        product(tokens, latent, values, batch=heads, element=here, cold=share * values),
        call("copy", read, read),
    )
