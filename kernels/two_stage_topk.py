"""An index search in two stages: blocks of entries first, then entries inside the chosen blocks (HISA,
arXiv:2603.28458).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_means import entries_at
from .groups import visible
from .index_topk import index_scores, pick_among_all
from .kept import kept
from .sparse_blocks import LIMIT, two_stage_blocks
from .state import Clock, Packed
from .topk_lowest import topk_lowest


def two_stage_topk(
    q: Tensor,
    keys: Tensor | Packed,
    means: Tensor | Packed,
    weights: Tensor,
    time: Clock,
    *,
    k: int,
    block: int,
    keep: int,
    every: int = 1,
    limit: int = LIMIT,
) -> Tensor:
    """Ids of the k best entries in the ``keep`` best blocks that each token sees, best first, -1 where there are fewer:
    [B, S, min(k, E)] int64.

    Operands, scores and ties as of `index_topk`. A block is ``block`` entries of a sequence; its score is that of its
    key, of means [B, E // block, D] from `block_means`. The first block and the newest, finished or not, are always
    kept, so that keep >= 2; of the others the best, equal ones in the order of their ids. A token that sees no more
    blocks than are kept picks among all that it sees, as `index_topk` does.
    """
    return kept(_best, q, keys, means, weights, time, k, block, keep, every, limit)


@torch.no_grad()
def _best(
    q: Tensor,
    keys: Tensor | Packed,
    means: Tensor | Packed,
    weights: Tensor,
    time: Clock,
    k: int,
    block: int,
    keep: int,
    every: int,
    limit: int,
) -> Tensor:
    """What `two_stage_topk` gives."""
    (batch, new, heads, width), entries = q.shape, keys.shape[1]
    picks = torch.full((batch, new, min(k, entries)), -1, dtype=torch.int64, device=q.device)
    flat, blocks = two_stage_blocks(
        batch=batch,
        heads=heads,
        width=width,
        past=time.past,
        new=new,
        every=every,
        entries=entries,
        block=block,
        keep=keep,
        limit=limit,
    )
    if flat:
        pick_among_all(
            picks[:, :flat], q, _first(keys, (time.past + flat) // every), weights, time, every=every, limit=limit
        )
    if flat == new:
        return picks
    wide = torch.promote_types(q.dtype, torch.float32)
    means_t = (means.decode() if isinstance(means, Packed) else means).to(wide).mT
    if new == 1 and time.aligned and time.starts is None:  # decoding: sizes are known, and nothing is hidden
        mix, rows = weights.to(wide), q.to(wide).squeeze(1)
        newest = (entries - 1) // block
        coarse = index_scores(rows, means_t[:, :, 1:newest], mix, limit)
        ids = _candidates_of_one(coarse, entries, block, keep)
        gathered = entries_at(keys, ids).squeeze(1).to(wide)
        fine = index_scores(rows, gathered.mT, mix, limit)
        best = topk_lowest(fine, min(picks.shape[-1], ids.shape[-1]))
        picks[..., : best.shape[-1]] = ids.gather(-1, best)
        return picks
    low, high = visible(time, every)
    before = None if low is None else visible(time, every * block)[0]  # blocks of earlier sequences
    for start, stop, seen in blocks:
        at = slice(start, stop)
        _pick(
            picks[:, at],
            q[:, at],
            keys,
            means_t[:, :, :seen],
            weights[:, at],
            None if low is None else low[:, at, None],
            None if before is None else before[:, at, None],
            high[:, at, None],
            block=block,
            keep=keep,
            limit=limit,
        )
    return picks


def _pick(
    picks: Tensor,
    q: Tensor,
    keys: Tensor | Packed,
    means_t: Tensor,
    weights: Tensor,
    first: Tensor | None,
    before: Tensor | None,
    end: Tensor,
    *,
    block: int,
    keep: int,
    limit: int,
) -> None:
    """Fills the picks [B, n, K] of a block of queries, which see entries first <= id < end [B, n, 1]."""
    mix, rows = weights.to(means_t.dtype).flatten(0, 1).unsqueeze(1), q.to(means_t.dtype).flatten(1, 2)
    coarse = index_scores(rows, means_t, mix, limit).view(*q.shape[:2], -1)
    ids = _candidates(coarse, first, end, 0 if before is None else before, block, keep)
    gathered = entries_at(keys, ids.clamp(0, keys.shape[1] - 1)).flatten(0, 1).to(means_t.dtype)
    fine = index_scores(rows.reshape(-1, *q.shape[2:]), gathered.mT, mix, limit).view(ids.shape)
    missing = (ids < 0) | (ids >= end)
    best = topk_lowest(fine.masked_fill_(missing, float("-inf")), min(picks.shape[-1], ids.shape[-1]))
    picks[..., : best.shape[-1]] = ids.gather(-1, best).masked_fill_(missing.gather(-1, best), -1)


def _candidates_of_one(scores: Tensor, entries: int, block: int, keep: int) -> Tensor:
    """Ids of the entries of the blocks that a token takes which sees all ``entries``, in order: [B, 1, C].

    scores [B, 1, M] are of all blocks but the first and the newest.
    """
    chosen = topk_lowest(scores, keep - 2).sort(-1).values + 1
    newest = (entries - 1) // block
    chosen = F.pad(F.pad(chosen, (1, 0)), (0, 1), value=newest)
    ids = chosen[..., None] * block + torch.arange(block, device=scores.device)
    return ids.flatten(-2)[..., : (keep - 1) * block + entries - newest * block]


def _candidates(
    scores: Tensor, first: Tensor | None, end: Tensor, before: Tensor | int, block: int, keep: int
) -> Tensor:
    """Ids of the entries of each query's blocks, in order, -1 for those of a block that it does not see: [B, n, keep *
    block]; ids from ``end`` on are none either.

    scores [B, n, M] are of block keys, of which ``before`` are those of earlier sequences; a query sees entries first
    <= id < end.
    """
    begin = torch.zeros_like(end) if first is None else first
    whole = (end - begin) // block  # blocks of the sequence that are finished
    rest = (end - begin) % block > 0
    ids = torch.arange(scores.shape[-1], device=scores.device) - before
    hidden = (ids < 0) | (ids >= whole)
    always = (ids == 0) | ((ids == whole - 1) & ~rest)
    scores = scores.masked_fill(always, float("inf")).masked_fill_(hidden, float("-inf"))
    # A block that is not finished has no key: it stands after all others.
    newest = torch.where(rest, float("inf"), float("-inf")).to(scores.dtype)
    chosen = topk_lowest(torch.cat([scores, newest], -1), keep).sort(-1).values
    last = chosen == scores.shape[-1]
    place = torch.where(last, whole, chosen - before)
    seen = (place >= 0) & torch.where(last, rest, place < whole)
    found = (begin + place * block)[..., None] + torch.arange(block, device=scores.device)
    return found.masked_fill_(~seen[..., None], -1).flatten(-2)


def _first(keys: Tensor | Packed, count: int) -> Tensor | Packed:
    """The first entries."""
    return keys.first(count) if isinstance(keys, Packed) else keys[:, :count]
