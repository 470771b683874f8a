"""Attention whose keys and values are linear maps of one cached latent per token (DeepSeek-V2, arXiv:2405.04434)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import attend_on_cpu
from .attend import attend, attend_stored
from .blocks import LIMIT, absorbs, expanded_heads
from .latents import by_head, to_latents
from .state import Clock, Packed


def latent_attend(
    q: Tensor,
    entries: Tensor | Packed,
    weight: Tensor,
    time: Clock,
    *,
    nope: int,
    scale: float,
    absorb: int | None = None,
) -> Tensor:
    """The values each query sees, weighted by softmax(scale * q . k): [B, S, H, V].

    q [B, S, H, nope + R]; entries [B, T, C + R] from `append`: a latent of C channels, then R rotated ones that the
    keys of all heads share. weight [H * (nope + V), C] maps a latent to each head's first ``nope`` key channels, then
    to its values. After cached tokens, up to ``absorb`` new ones (None: any number) are run in latent space: that is
    fewer multiplications than to expand the keys and values of all tokens. Both forms give the same.
    """
    if isinstance(entries, Packed):
        entries = entries.decode()
    heads, latent = q.shape[2], weight.shape[1]
    weights = weight.unflatten(0, (heads, -1))  # [H, nope + V, C]
    if absorbs(past=time.past, new=time.new, most=absorb):
        return _absorbed(q, entries, weights, time, nope=nope, scale=scale)
    wide = max(q.shape[-1], weights.shape[1])
    step = expanded_heads(batch=q.shape[0], heads=heads, keys=entries.shape[1], width=wide, limit=LIMIT)
    parts = zip(q.split(step, 2), weights.split(step), strict=True)
    outs = []
    for some, rows in parts:
        kv = F.linear(entries[..., :latent], rows.flatten(0, 1)).unflatten(-1, rows.shape[:2])
        keys, values, shared = kv[..., :nope], kv[..., nope:], entries[..., latent:]
        out = attend_on_cpu.attend(some, keys, values, time, scale=scale, shared=shared)
        if out is None:
            keys = torch.cat([keys, shared[:, :, None].expand(-1, -1, len(rows), -1)], -1)
            out = attend(some, keys, values, time, scale=scale)
        outs.append(out)
    return outs[0] if len(outs) == 1 else torch.cat(outs, 2)


def _absorbed(q: Tensor, entries: Tensor, weights: Tensor, time: Clock, *, nope: int, scale: float) -> Tensor:
    """The same with queries taken to latent space, one key for all heads, and latents weighted in place of values.

    q . (W c) = (W^T q) . c, and the weighted sum of W c is W times the weighted sum of c: the cache is read as it is.
    """
    batch, new, latent = q.shape[0], q.shape[1], weights.shape[-1]
    rows = to_latents(q.flatten(0, 1), weights[:, :nope])  # [B * S, H, C + R]
    keys, together = entries[:, :, None], rows.unflatten(0, (batch, new))
    out = attend_on_cpu.attend(together, keys, keys[..., :latent], time, scale=scale)
    if out is not None:
        means = out.flatten(0, 1)
    elif new == 1 and time.aligned:  # decoding, where calls are what takes time: every entry is seen
        scores = rows.bmm(entries.mT).to(torch.promote_types(q.dtype, torch.float32)).mul_(scale)
        means = scores.softmax(-1).to(q.dtype).bmm(entries[..., :latent])
    else:
        means = attend_stored(together, keys, keys[..., :latent], time, scale=scale).flatten(0, 1)
    return by_head(means, weights[:, nope:].mT).unflatten(0, (batch, new))
