"""What becomes of tokens that skip layers, by the confidence [B, S] in each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def unsure(x: Tensor) -> Tensor:
    """No confidence in any token of x [B, S, ...]: zeros [B, S], in at least float32."""
    return torch.zeros(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def either(a: Tensor, b: Tensor) -> Tensor:
    """The confidence that one of two is right, if they err apart: 1 where one of them is."""
    return a + b - a * b


def hold(before: Tensor, after: Tensor, confidence: Tensor) -> Tensor:
    """confidence * before + (1 - confidence) * after [B, S, ...], in the dtype of `before`.

    Exactly `before` where the confidence [B, S] is 1, and `after` where it is 0.
    """
    weight = confidence.to(before.dtype).view(*confidence.shape, *[1] * (before.dim() - 2))
    return torch.lerp(after.to(before.dtype), before, weight)


def bypass_depth(confidence: Tensor, time: Any) -> Tensor:
    """The mean of 1 - confidence [B, S] over the tokens of a call."""
    valid = time.valid
    return ((1 - confidence) * valid).sum() / valid.sum().clamp(min=1)
