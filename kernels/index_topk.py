"""The lightning indexer: which entries each token attends to (DeepSeek-V3.2; DeepSeek-V4, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import visible
from .kept import kept
from .sparse_blocks import LIMIT, index_blocks
from .state import Clock, Packed
from .topk_lowest import topk_lowest


def index_topk(
    q: Tensor, keys: Tensor | Packed, weights: Tensor, time: Clock, *, k: int, every: int = 1, limit: int = LIMIT
) -> Tensor:
    """Ids of the k best entries each token sees, best first, -1 where there are fewer: [B, S, min(k, E)] int64.

    The score of entry e is the sum over heads of weights[h] * relu(q[h] . keys[e]): q [B, S, H, D], keys [B, E, D],
    one per ``every`` tokens, weights [B, S, H]. A token sees the entries of its sequence whose groups end with it
    or before. Equal scores go to the lower id. In blocks of at most ``limit`` scores, in at least float32; a choice
    has no gradient.
    """
    return kept(_best, q, keys, weights, time, k, every, limit)


@torch.no_grad()
def _best(q: Tensor, keys: Tensor | Packed, weights: Tensor, time: Clock, k: int, every: int, limit: int) -> Tensor:
    """What `index_topk` gives."""
    (batch, new, heads, _), entries = q.shape, keys.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    alone = new == 1 and time.aligned and time.starts is None
    low, high = visible(time, every)
    keys_t = (keys.decode() if isinstance(keys, Packed) else keys).to(wide).mT
    picks = torch.full((batch, new, min(k, entries)), -1, dtype=torch.int64, device=q.device)
    for start, stop, seen in index_blocks(
        batch=batch, heads=heads, past=time.past, new=new, every=every, entries=entries, limit=limit
    ):
        if seen == 0:
            continue
        mix = weights[:, start:stop].to(wide).flatten(0, 1).unsqueeze(1)
        rows = q[:, start:stop].to(wide).flatten(1, 2)
        step = max(1, limit // (batch * (stop - start) * heads))
        parts = [_scores(rows, keys_t[:, :, left : min(left + step, seen)], mix) for left in range(0, seen, step)]
        scores = (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).view(batch, stop - start, seen)
        if alone:  # the one token sees all that its block has
            picks[:, start:stop, : min(k, seen)] = topk_lowest(scores, min(k, seen))
            continue
        first, end = None if low is None else low[:, start:stop, None], high[:, start:stop, None]
        scores.masked_fill_(_outside(torch.arange(seen, device=q.device), first, end), float("-inf"))
        best = topk_lowest(scores, min(k, seen))
        picks[:, start:stop, : best.shape[-1]] = best.masked_fill_(_outside(best, first, end), -1)
    return picks


def _scores(rows: Tensor, keys_t: Tensor, mix: Tensor) -> Tensor:
    """Scores of keys_t [B, D, E] for rows [B, n * H, D], heads weighed by mix [B * n, 1, H]: [B * n, 1, E]."""
    products = torch.bmm(rows, keys_t).relu_()
    return torch.bmm(mix, products.view(*mix.shape[::2], -1))


def _outside(ids: Tensor, first: Tensor | None, end: Tensor) -> Tensor:
    """Whether ids are not among first <= id < end."""
    return ids >= end if first is None else (ids >= end) | (ids < first)
