"""Routing limited to some groups of experts (DeepSeek-V2, arXiv:2405.04434; DeepSeek-V3, arXiv:2412.19437)."""

from __future__ import annotations

import torch
from torch import Tensor

from .topk_lowest import topk_lowest


def group_mask(scores: Tensor, *, groups: int, keep: int, best: int = 2) -> Tensor:
    """Scores [..., E] with all but the ``keep`` best of ``groups`` groups at -inf.

    A group is worth the sum of its ``best`` largest scores: 2 in V3, 1 in V2. Ties go to the lower group.
    """
    grouped = scores.unflatten(-1, (groups, -1))
    worth = grouped.topk(min(best, grouped.shape[-1]), -1).values.sum(-1)
    kept = torch.zeros_like(worth, dtype=torch.bool).scatter(-1, topk_lowest(worth, keep), True)
    return grouped.masked_fill(~kept[..., None], float("-inf")).flatten(-2)
