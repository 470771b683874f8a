"""References of attention over latents (`kernels/latent_attend.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, size
from archc.ops.calls import Calls, call, convert, product
from archc.ops.latent import LatentAttend
from archc.ops.reference.attention import attention
from archc.ops.schedules import schedule

Types = tuple[Type, ...]


def latent_attend(op: LatentAttend, w: Workload, ins: Types, outs: Types) -> Calls:
    q, entries, weight = ins[:3]
    heads, latent, values, keys = q.fixed(2), weight.last, outs[0].last, size(entries.shape[1], w)
    here, blocks = element(q.dtype, w), schedule("blocks")
    own = nbytes(weight, w)
    if blocks.absorbs(past=w.past, new=w.new, most=op.absorb):
        return _absorbed(op, w, heads, latent, values, keys, q.last, here, own)
    step = blocks.expanded_heads(batch=w.batch, heads=heads, keys=keys, width=max(q.last, op.nope + values))
    whole, rest = divmod(heads, step)
    calls: Calls = ()
    for some in (*[step] * whole, *([rest] if rest else [])):
        rows, wide = w.batch * keys, op.nope + values
        made = rows * some * q.last * here
        calls = (
            *calls,
            product(rows, latent, some * wide, element=here, cold=own * some // heads),
            call("copy", rows * (some * op.nope + q.last - op.nope) * here, made),
            *attention(w, keys=keys, heads=some, groups=some, width=q.last, value_width=values, here=here, cold=False),
        )
    if whole + bool(rest) > 1:
        n = nbytes(outs[0], w)
        calls = *calls, call("copy", n, n)
    return calls


def _absorbed(
    op: LatentAttend, w: Workload, heads: int, latent: int, values: int, keys: int, width: int, here: int, own: int
) -> Calls:
    """In latent space: queries are taken there head by head, and what they read is taken back."""
    tokens, wide = w.batch * w.new, max(4, here)
    entry, share = latent + width - op.nope, own / (op.nope + values)
    into = product(tokens, op.nope, latent, batch=heads, element=here, cold=share * op.nope)
    back = product(tokens, latent, values, batch=heads, element=here, cold=share * values)
    rows = tokens * heads * entry * here
    calls: Calls = into, call("copy", rows, rows)
    if w.new > 1:
        seen = attention(
            w,
            keys=keys,
            heads=heads,
            groups=1,
            width=entry,
            value_width=latent,
            here=here,
            cold=w.cached,
            stored=True,
        )
        return *calls, *seen, back
    n, cold = tokens * heads * keys, w.batch * keys * here
    return (
        *calls,
        product(heads, entry, keys, batch=w.batch, element=here, cold=cold * entry),
        *convert(n, here, wide),
        call("update", n * wide, n * wide),
        call("softmax", n * wide, n * wide),
        *convert(n, wide, here),
        product(heads, keys, latent, batch=w.batch, element=here, cold=cold * latent),
        back,
    )
