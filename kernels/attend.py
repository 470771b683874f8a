"""Softmax attention over given keys and values, in query blocks of bounded memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import causal, query_blocks
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

    q [B, S, H, D], keys [B, T, G, D] and values [B, T, G, V]; heads h * H/G .. share key-value head h. Keys come from
    `append` (all tokens so far) or, with a `window`, from `recall` (the window's tokens before the new ones); without a
    cache T = S. A query sees itself, the tokens before it in its own sequence, and of those only the last `window`
    (itself included). `sinks` [H] are logits that take mass and give no value (Xiao et al. 2023, arXiv:2309.17453).
    """
    new, heads, width = q.shape[1:]
    recalled = time.cached and window is not None
    span = keys.shape[1] if recalled else time.past + new
    stored = sinks is not None or values.shape[-1] != width
    ragged = not time.aligned or time.starts is not None
    if not (stored or ragged) and causal(new=new, keys=span, window=window):
        return _flash(q, keys, values, None, scale=scale, causal=True)
    blocks = query_blocks(
        batch=q.shape[0], heads=heads, new=new, keys=span, window=window, materialise=stored, ragged=ragged
    )
    outs = []
    for start, stop, low, high in blocks:
        high = min(high, keys.shape[1])  # rows of unequal length may have room for less than the longest would need
        seen = _visible(time, start, stop, low, high, kept=span - new, recalled=recalled, window=window)
        block = (q[:, start:stop], keys[:, low:high], values[:, low:high], None if seen is None else seen[:, None])
        outs.append(_softmax(*block, scale=scale, sinks=sinks) if stored else _flash(*block, scale=scale))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


def _visible(
    time: Clock, start: int, stop: int, low: int, high: int, *, kept: int, recalled: bool, window: int | None
) -> Tensor | None:
    """Which of the keys low .. high each of the queries start .. stop sees, [B or 1, S, T]; None: all of them."""
    missing = kept - time.past if recalled else 0  # rows of `recall` before the first token, where rows are aligned
    if time.aligned and time.starts is None and stop - start == 1 and low >= missing:
        return None
    device = time.first.device
    row = torch.arange(low, high, device=device)
    query = torch.arange(start, stop, device=device)
    # The row of the keys in which each query's own key stands.
    own = (kept + query if time.aligned or recalled else time.first[:, None] + query).view(-1, stop - start, 1)
    seen = row <= own
    if window is not None:
        seen = seen & (row > own - window)
    if recalled and not time.aligned:
        seen = seen & (row >= kept - time.first[:, None, None])
    elif missing > low:
        seen = seen & (row >= missing)
    if time.starts is not None:
        seen = seen & (row >= time.starts[:, start:stop, None])
    return seen


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
    scores = (rows @ keys.permute(0, 2, 3, 1)).to(torch.promote_types(q.dtype, torch.float32)) * scale
    scores = scores.view(batch, heads, new, -1)
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        sink = sinks.to(scores.dtype).view(1, heads, 1, 1).expand(batch, -1, new, -1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    out = weights.to(values.dtype).view(batch, groups, -1, keys.shape[1]) @ values.transpose(1, 2)
    return out.view(batch, heads, new, -1).transpose(1, 2)
