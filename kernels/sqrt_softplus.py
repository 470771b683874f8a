"""The square root of a softplus, with its slope wherever it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOW = -40.0
"""Below it e^x is what softplus(x) is to the last digit of a float64, and in a float32 not yet denormal."""


def sqrt_softplus(x: Tensor) -> Tensor:
    """sqrt(log(1 + e^x)), elementwise, same shape and dtype: the affinities of DeepSeek-V4 (arXiv:2606.19348).

    Where softplus would vanish the root is e^(x/2), which neither loses digits nor has the infinite slope of a root at
    zero.
    """
    root = (-F.logsigmoid(-x.clamp(min=LOW))).sqrt()
    return torch.where(x < LOW, (x.clamp(max=LOW) / 2).exp(), root)
