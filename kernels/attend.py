"""Softmax attention over given keys and values, in query blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import attend_on_cpu
from .blocks import LIMIT, causal, query_blocks, stores_scores
from .kept import again
from .state import Clock


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    time: Clock,
    *,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The values each query sees, weighted by softmax(scale * q . k): [B, S, H, V].

    q [B, S, H, D], keys [B, T, G, D] and values [B, T, G, V]; query head h reads key head h * G // H. Keys come from
    `append` (all tokens so far) or, with a `window`, from `recall` (the window's tokens before the new ones); without a
    cache T = S. A query sees itself, the tokens before it in its own sequence, and of those only the last `window`
    (itself included). `sinks` [H] are logits that take mass and give no value (Xiao et al. 2023, arXiv:2309.17453).
    """
    if (out := attend_on_cpu.attend(q, keys, values, time, scale=scale, window=window, sinks=sinks)) is not None:
        return out
    plain = window is None and sinks is None
    if plain and (out := attend_on_cpu.attend_graded(q, keys, values, time, scale=scale)) is not None:
        return out
    (_, new, heads, width), (groups, value_width) = q.shape, values.shape[2:]
    sizes = {"new": new, "heads": heads, "groups": groups, "width": width, "value_width": value_width}
    if stores_scores(sinks=sinks is not None, **sizes):
        return attend_stored(q, keys, values, time, scale=scale, window=window, sinks=sinks)
    if width != value_width:
        wide = max(width, value_width)
        q, keys, values = (x if x.shape[-1] == wide else F.pad(x, (0, wide - x.shape[-1])) for x in (q, keys, values))
    return _in_blocks(q, keys, values, time, scale=scale, window=window)[..., :value_width]


def attend_stored(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    time: Clock,
    *,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """As `attend`, with stored scores whatever the widths: keys and values are read where they lie, never copied."""
    if (out := attend_on_cpu.attend(q, keys, values, time, scale=scale, window=window, sinks=sinks)) is not None:
        return out
    return _in_blocks(q, keys, values, time, scale=scale, window=window, sinks=sinks, stored=True)


def _in_blocks(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    time: Clock,
    *,
    scale: float,
    window: int | None,
    sinks: Tensor | None = None,
    stored: bool = False,
) -> Tensor:
    """As `attend`, with the scores stored or fused (then all widths are equal)."""
    new, heads = q.shape[1:3]
    if new == 1 and window is None and time.aligned and time.starts is None and not stored:
        return _flash(q, keys, values, None, scale=scale)  # decoding, where calls are what takes time: all is seen
    recalled = time.cached and window is not None
    span = keys.shape[1] if recalled else time.past + new
    geometry = _Geometry(time, kept=span - new, recalled=recalled, window=window)
    if not (stored or geometry.ragged) and causal(new=new, keys=span, window=window):
        return _flash(q, keys, values, None, scale=scale, causal=True)
    blocks = query_blocks(
        batch=q.shape[0],
        heads=heads,
        new=new,
        keys=span,
        window=window,
        materialise=stored,
        ragged=geometry.ragged,
        limit=LIMIT,
    )
    copies = q.shape[0] * heads if stored else q.shape[0] * geometry.ragged
    outs = []
    for count, (start, stop, low, high) in _runs(blocks, geometry, copies):
        step = stop - start
        seen = geometry.visible(count, start, stop, low, min(high, keys.shape[1]))
        parts = (
            _cut(q, start, step, step, count),
            _cut(keys, low, high - low, step, count),
            _cut(values, low, high - low, step, count),
            seen,
        )
        out = _softmax(*parts, scale=scale, sinks=sinks) if stored else _flash(*parts, scale=scale)
        outs.append(out if count == 1 else out.unflatten(0, (-1, count)).flatten(1, 2))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


@dataclass(frozen=True)
class _Geometry:
    """Which keys queries see, in columns of the new tokens and rows of the keys."""

    time: Clock
    kept: int  # rows of the keys before the first new token
    recalled: bool  # those rows are the last `kept` slots, not all
    window: int | None

    @property
    def ragged(self) -> bool:
        """Whether rows see different keys."""
        return not self.time.aligned or self.time.starts is not None

    @property
    def missing(self) -> int:
        """Rows of recalled keys that stand before the first token, where all rows have that many."""
        return max(0, self.kept - self.time.past) if self.recalled and self.time.aligned else 0

    def shared(self, low: int) -> bool:
        """Whether blocks from row `low` on depend on nothing but the distance of a query and a key."""
        return not self.ragged and low >= self.missing

    def visible(self, count: int, start: int, stop: int, low: int, high: int) -> Tensor | None:
        """Which keys low .. high each query start .. stop sees, [B * count or 1, 1, S, T]; None: all of them.

        `count` such blocks follow each other at the distance of the queries of one.
        """
        time, shared = self.time, self.shared(low)
        if shared and stop - start == 1:
            return None
        device = time.first.device
        block = torch.arange(1 if shared else count, device=device)[:, None] * (stop - start)
        query = torch.arange(start, stop, device=device) + block  # [count, S]
        row = (torch.arange(low, high, device=device) + block)[:, None]  # [count, 1, T]
        # The row of the keys in which each query's own key stands.
        own = self.kept + query if time.aligned or self.recalled else time.first[:, None, None] + query
        own = own.view(-1, *query.shape, 1)  # [B or 1, count, S, 1]
        seen = row <= own
        if self.window is not None:
            seen = seen & (row > own - self.window)
        if self.recalled and not time.aligned:
            seen = seen & (row >= (self.kept - time.first).view(-1, 1, 1, 1))
        elif self.missing > low:
            seen = seen & (row >= self.missing)
        if time.starts is not None:
            seen = seen & (row >= time.starts[:, query, None])
        return seen.flatten(0, 1)[:, None]


def _runs(
    blocks: list[tuple[int, int, int, int]], geometry: _Geometry, copies: int
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Blocks that follow each other in equal steps, as (count, first of them), so that a band is one batched product.

    Of each pair of a block `copies` elements are stored; those of a run stay under the limit. Without copies, a run
    has one mask for all its blocks.
    """
    at = 0
    while at < len(blocks):
        start, stop, low, high = blocks[at]
        step, most = stop - start, LIMIT // max(1, copies * (stop - start) * (high - low))
        count = 1
        if geometry.window is not None and (geometry.ragged or geometry.shared(low)):
            while at + count < len(blocks) and (count < most or not copies):
                shift = step * count
                if blocks[at + count] != (start + shift, stop + shift, low + shift, high + shift):
                    break
                count += 1
        yield count, blocks[at]
        at += count


def _cut(x: Tensor, start: int, size: int, step: int, count: int) -> Tensor:
    """`count` pieces of `size` columns of x [B, C, ...], each `step` after the one before: [B * count, size, ...]."""
    if count == 1:
        return x[:, start : start + size]
    pieces = x[:, start : start + size + step * (count - 1)].unfold(1, size, step)  # [B, count, ..., size]
    return pieces.movedim(-1, 2).flatten(0, 1)


def _flash(
    q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, *, scale: float, causal: bool = False
) -> Tensor:
    """Attention by PyTorch's fused kernel, which stores no scores: [B, S, H, V]."""
    heads, groups = q.shape[2], keys.shape[2]
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    if q.shape[1] == 1 and heads != groups:
        # One token: the heads that share a key stand in for queries, so that each key is read once.
        seen = None if seen is None else seen.expand(-1, -1, heads // groups, -1)
        out = F.scaled_dot_product_attention(
            q[:, 0].unflatten(1, (groups, -1)), keys, values, attn_mask=seen, scale=scale
        )
        return out.flatten(1, 2)[:, None]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, attn_mask=seen, is_causal=causal, scale=scale, enable_gqa=heads != groups
    )
    return out.transpose(1, 2)


def _softmax(
    q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, *, scale: float, sinks: Tensor | None
) -> Tensor:
    """Attention with stored scores, softmax in at least float32: [B, S, H, V]."""
    (batch, new, heads, _), groups = q.shape, keys.shape[2]
    # The heads that share a key become rows of one product, so that keys are never repeated.
    rows = q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, G, H/G * S, D]
    scores = again(torch.matmul, rows, keys.permute(0, 2, 3, 1)).to(torch.promote_types(q.dtype, torch.float32))
    scores = scores.mul_(scale).view(batch, heads, new, -1)
    if seen is not None:
        scores = scores.masked_fill_(~seen, float("-inf"))
    # Weights take the place of the scores and are divided after the product: one tensor of this size, not four. The
    # shift cancels, so it takes no gradient.
    top = scores.detach().amax(-1, keepdim=True)
    sink = None if sinks is None else sinks.to(scores.dtype).view(heads, 1, 1)
    if sink is not None:
        top = top.maximum(sink.detach())
    weights = scores.sub_(top).exp_()
    mass = weights.sum(-1, keepdim=True)
    if sink is not None:
        mass = mass + (sink - top).exp()
    weights = weights.to(values.dtype).view(batch, groups, -1, keys.shape[1])
    out = (weights @ values.transpose(1, 2)).view(batch, heads, new, -1)
    return (out / mass).to(q.dtype).transpose(1, 2)
