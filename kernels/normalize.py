"""Division by the sum."""

from __future__ import annotations

from torch import Tensor


def normalize(x: Tensor, *, eps: float = 0.0) -> Tensor:
    """x / (sum of x over the last dim + eps), same shape and dtype."""
    return x / (x.sum(-1, keepdim=True) + eps)
