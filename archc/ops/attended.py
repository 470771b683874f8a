"""What attention over given keys keeps and makes: the kernel `attend` on tensors without numbers."""

from __future__ import annotations

from collections.abc import Iterator

from archc.ops.schedules import schedule
from archc.ops.tape import Tape, Tensor


def attended(
    t: Tape,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """q [B, S, H, D], keys [B, S, G, D], values [B, S, G, V] without a cache: [B, S, H, V]."""
    blocks = schedule("blocks")
    (batch, new, heads, width), (groups, value_width) = q.shape, values.shape[2:]
    sizes = {"new": new, "heads": heads, "groups": groups, "width": width, "value_width": value_width}
    stored = blocks.stores_scores(sinks=sinks is not None, **sizes)
    if not stored and width != value_width:
        wide = max(width, value_width)
        q, keys, values = (x if x.shape[-1] == wide else _padded(t, x, wide) for x in (q, keys, values))
    if not stored and blocks.causal(new=new, keys=new, window=window):
        return _cut_to(t, _flash(t, q, keys, values, None), value_width)
    outs = []
    for count, (start, stop, low, high) in _runs(batch * heads * stored, new, window, batch, heads, stored):
        step = stop - start
        seen = t.new((1, 1, step, high - low), 1) if step > 1 else None
        some = _cut(t, q, step, step, count)
        near, read = (_cut(t, x, high - low, step, count) for x in (keys, values))
        out = _softmax(t, some, near, read, seen, sinks) if stored else _flash(t, some, near, read, seen)
        outs.append(t.reshape(out, (batch, count * step, *out.shape[2:])))
    return _cut_to(t, outs[0] if len(outs) == 1 else t.cat(outs, 1), value_width)


def _runs(
    copies: int, new: int, window: int | None, batch: int, heads: int, stored: bool
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """As the kernel's: blocks that follow each other in equal steps are one product."""
    blocks = schedule("blocks")
    todo = blocks.query_blocks(batch=batch, heads=heads, new=new, keys=new, window=window, materialise=stored)
    at = 0
    while at < len(todo):
        start, stop, low, high = todo[at]
        step, count = stop - start, 1
        most = blocks.LIMIT // max(1, copies * step * (high - low))
        while window is not None and at + count < len(todo) and (count < most or not copies):
            shift = step * count
            if todo[at + count] != (start + shift, stop + shift, low + shift, high + shift):
                break
            count += 1
        yield count, todo[at]
        at += count


def _cut(t: Tape, x: Tensor, size: int, step: int, count: int) -> Tensor:
    """``count`` pieces of ``size`` columns of x [B, C, ...], each ``step`` after the one before."""
    part = t.narrow(x, 1, size + step * (count - 1))
    if count == 1:
        return part
    (batch, _, *rest), (far, near, *steps) = part.shape, part.strides
    pieces = t.view(part, (batch, count, size, *rest), (far, step * near, near, *steps))
    return t.reshape(pieces, (batch * count, size, *rest))


def _padded(t: Tape, x: Tensor, width: int) -> Tensor:
    return t.made_of(t.new((*x.shape[:-1], width), x.width), (x,))


def _cut_to(t: Tape, x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else t.narrow(x, -1, width)


def _flash(t: Tape, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    """PyTorch's fused kernel: keeps operands, result and log-sum-exps, and a mask as numbers."""
    out = t.new(q.shape, q.width)
    lse = t.new(q.shape[:3], max(4, q.width))
    mask = None if seen is None else t.new(seen.shape, q.width)
    t.product(out, lse)
    return t.made_of(out, (q, keys, values), (q, keys, values, mask, lse, out))


def _softmax(t: Tape, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, sinks: Tensor | None) -> Tensor:
    """Attention with stored scores."""
    (batch, new, heads, width), (span, groups, value_width) = q.shape, values.shape[1:]
    each = heads // groups
    rows = t.permute(t.reshape(q, (batch, new, groups, each, width)), (0, 2, 3, 1, 4))
    rows = t.reshape(t.reshape(rows, (batch, groups, each * new, width)), (batch * groups, each * new, width))
    across = t.reshape(t.permute(keys, (0, 2, 3, 1)), (batch * groups, width, span))
    scores = t.upcast(t.matmul(rows, across, again=True))
    kept = [] if seen is None else [t.new(seen.shape, 1)]
    # What follows happens in place: exp keeps its result. In place of a view, autograd copies gradients twice
    weights = Tensor(scores.storage, scores.shape, scores.strides, scores.width)
    weights = t.made_of(weights, (scores,), (*kept, scores), work=2 * scores.bytes)
    mass = t.sum(weights, -1, keep=True)
    if sinks is not None:
        shift = t.new((batch, heads, new, 1), scores.width)
        sink = t.pointwise(t.reshape(t.upcast(sinks), (heads, 1, 1)), shift, passes=True)
        mass = t.add(t.reshape(mass, (batch, heads, new, 1)), t.of_result(sink))
    else:
        mass = t.reshape(mass, (batch, heads, new, 1))
    shares = t.to(weights, values.width)
    read = t.reshape(t.permute(values, (0, 2, 1, 3)), (batch * groups, span, value_width))
    out = t.reshape(t.matmul(shares, read), (batch, heads, new, value_width))
    return t.permute(t.to(t.div(out, mass), q.width), (0, 2, 1, 3))
