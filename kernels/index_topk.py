"""The lightning indexer: which entries each token attends to (DeepSeek-V3.2; DeepSeek-V4, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import on_cpu
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
    if isinstance(keys, Tensor) and (one := on_cpu.pick(q, keys, weights, time, k=k, every=every)) is not None:
        return one
    return kept(_best, q, keys, weights, time, k, every, limit)


@torch.no_grad()
def _best(q: Tensor, keys: Tensor | Packed, weights: Tensor, time: Clock, k: int, every: int, limit: int) -> Tensor:
    """What `index_topk` gives."""
    picks = torch.full((*q.shape[:2], min(k, keys.shape[1])), -1, dtype=torch.int64, device=q.device)
    pick_among_all(picks, q, keys, weights, time, every=every, limit=limit)
    return picks


def pick_among_all(
    picks: Tensor, q: Tensor, keys: Tensor | Packed, weights: Tensor, time: Clock, *, every: int, limit: int
) -> None:
    """Fills picks [B, n, K] of the first n queries, K at most, where there is something to pick."""
    (batch, new, most), heads, entries = picks.shape, q.shape[2], keys.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    alone = time.new == 1 and time.aligned and time.starts is None
    low, high = visible(time, every)
    keys_t = (keys.decode() if isinstance(keys, Packed) else keys).to(wide).mT
    for start, stop, seen in index_blocks(
        batch=batch, heads=heads, past=time.past, new=new, every=every, entries=entries, limit=limit
    ):
        if seen == 0:
            continue
        mix = weights[:, start:stop].to(wide).flatten(0, 1).unsqueeze(1)
        rows = q[:, start:stop].to(wide).flatten(1, 2)
        scores = index_scores(rows, keys_t[:, :, :seen], mix, limit).view(batch, stop - start, seen)
        if alone:  # the one token sees all that its block has
            picks[:, start:stop, : min(most, seen)] = topk_lowest(scores, min(most, seen))
            continue
        first, end = None if low is None else low[:, start:stop, None], high[:, start:stop, None]
        scores.masked_fill_(outside(torch.arange(seen, device=q.device), first, end), float("-inf"))
        best = topk_lowest(scores, min(most, seen))
        picks[:, start:stop, : best.shape[-1]] = best.masked_fill_(outside(best, first, end), -1)


def index_scores(rows: Tensor, keys_t: Tensor, mix: Tensor, limit: int) -> Tensor:
    """Scores of keys_t [B, D, E] for rows [B, n * H, D], heads weighed by mix [B * n, 1, H]: [B * n, 1, E], so many
    keys at a time that no product exceeds ``limit`` elements.
    """
    step, seen = max(1, limit // (rows.shape[0] * rows.shape[1])), keys_t.shape[-1]
    parts = [_scores(rows, keys_t[:, :, left : min(left + step, seen)], mix) for left in range(0, seen, step)]
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def _scores(rows: Tensor, keys_t: Tensor, mix: Tensor) -> Tensor:
    """Scores of keys_t [B, D, E] for rows [B, n * H, D], heads weighed by mix [B * n, 1, H]: [B * n, 1, E]."""
    products = torch.bmm(rows, keys_t).relu_()
    return torch.bmm(mix, products.view(*mix.shape[::2], -1))


def outside(ids: Tensor, first: Tensor | None, end: Tensor) -> Tensor:
    """Whether ids are not among first <= id < end."""
    return ids >= end if first is None else (ids >= end) | (ids < first)
