"""Queries taken to the space of latents, whose keys are linear maps of them (DeepSeek-V2, arXiv:2405.04434)."""

from __future__ import annotations

import torch
from torch import Tensor


def to_latents(q: Tensor, keys: Tensor) -> Tensor:
    """Queries that meet latents as they are [N, H, C + R]: q . (W c) = (W^T q) . c.

    q [N, H, K + R], of which the last R channels meet channels that are no latent; keys [H, K, C] maps a latent to the
    first K channels of each head's key.
    """
    nope = keys.shape[1]
    return torch.cat([by_head(q[..., :nope], keys), q[..., nope:]], -1)


def by_head(x: Tensor, matrices: Tensor) -> Tensor:
    """x [N, H, I] by a matrix of each head [H, I, J]: [N, H, J]."""
    return x.transpose(0, 1).bmm(matrices).transpose(0, 1)
