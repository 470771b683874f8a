"""The lightning indexer: which entries each token attends to (DeepSeek-V3.2; DeepSeek-V4, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import visible
from .sparse_blocks import LIMIT, index_blocks
from .state import Clock, Packed
from .topk_lowest import topk_lowest


@torch.no_grad()
def index_topk(
    q: Tensor, keys: Tensor | Packed, weights: Tensor, time: Clock, *, k: int, every: int = 1, limit: int = LIMIT
) -> Tensor:
    """Ids of the k best entries each token sees, best first, -1 where there are fewer: [B, S, min(k, E)] int64.

    The score of entry e is the sum over heads of weights[h] * relu(q[h] . keys[e]): q [B, S, H, D], keys [B, E, D],
    one per ``every`` tokens, weights [B, S, H]. A token sees the entries of its sequence whose groups end with it
    or before. Equal scores go to the lower id. In blocks of at most ``limit`` scores, in at least float32; a choice
    has no gradient.
    """
    (batch, new, heads, _), entries = q.shape, keys.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    low, high = visible(time, every)
    keys_t = (keys.decode() if isinstance(keys, Packed) else keys).to(wide).mT
    picks = torch.full((batch, new, min(k, entries)), -1, dtype=torch.int64, device=q.device)
    for start, stop, seen in index_blocks(
        batch=batch, heads=heads, past=time.past, new=new, every=every, entries=entries, limit=limit
    ):
        if seen == 0:
            continue
        mix = weights[:, start:stop].to(wide)[..., None]
        rows = q[:, start:stop].to(wide).flatten(1, 2)
        scores = rows.new_empty(batch, stop - start, seen)
        step = max(1, limit // (batch * (stop - start) * heads))
        for left in range(0, seen, step):
            right = min(left + step, seen)
            products = (rows @ keys_t[:, :, left:right]).view(batch, stop - start, heads, -1)
            scores[..., left:right] = products.relu_().mul_(mix).sum(2)
        ids = torch.arange(seen, device=q.device)
        hidden = ids >= high[:, start:stop, None]
        if low is not None:
            hidden = hidden | (ids < low[:, start:stop, None])
        scores = scores.masked_fill_(hidden, float("-inf"))
        best = topk_lowest(scores, min(k, seen))
        picks[:, start:stop, : best.shape[-1]] = best.masked_fill(hidden.expand_as(scores).gather(-1, best), -1)
    return picks
