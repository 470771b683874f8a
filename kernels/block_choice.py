"""Which blocks of tokens a query attends to, by what compressed attention gave the entries that overlap them (Native
Sparse Attention, arXiv:2502.11089, section 3.3.2).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .topk_lowest import topk_lowest

Mapping = Literal["overlap", "minus", "plus"]


def block_scores(
    mass: Tensor, *, blocks: int, every: int, size: int, select: int, mapping: Mapping = "overlap"
) -> Tensor:
    """Scores [..., blocks] of blocks of ``select`` tokens from the weights of entries, mass [..., E].

    Entry e is of the ``size`` tokens up to the end of group e of ``every``: of the first size / every - 1 there are
    none, and their mass must be 0. Counted from the first that is, i, a block's score is equation 9's sum over m <
    select / every and n < size / every of the mass of entry select / every * block + m - n, which counts each entry as
    often as pairs of pieces of ``every`` tokens of it and of the block coincide ("overlap"); or of + m + n ("plus"),
    or of - m - n, the equation as it is printed ("minus"). Entries that do not exist count as 0.
    """
    pieces, parts = select // every, size // every
    many, left = pieces * blocks, pieces - 1 if mapping == "minus" else 0
    if mapping == "plus":
        mass = mass[..., parts - 1 :]
    mass = F.pad(mass, (left, many + parts - 1 - left - mass.shape[-1]))
    summed = mass[..., :many]
    for n in range(1, parts):
        summed = summed + mass[..., n : n + many]
    return summed.unflatten(-1, (blocks, pieces)).sum(-1)


def choose_blocks(scores: Tensor, own: Tensor, *, count: int, initial: int, local: int) -> Tensor:
    """Ids of the ``count`` best blocks that a query sees, -1 where there are fewer: [B, n, G, count].

    scores [B, n, G, blocks]; ``own`` [B, n] is the block that the query stands in, the last that it sees. The first
    ``initial`` blocks and the ``local`` last ones are always among them. Equal scores go to the lower id.
    """
    ids = torch.arange(scores.shape[-1], device=scores.device)
    own = own[:, :, None, None]
    forced = (ids > own - local) | (ids < initial)
    scores = scores.masked_fill(forced, float("inf")).masked_fill(ids > own, float("-inf"))
    picks = topk_lowest(scores, count)
    return picks.masked_fill(picks > own, -1)
