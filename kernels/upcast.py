"""The wider of a tensor's dtype and float32."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """x in at least float32 (float64 stays): the entry of a part of the model that must not run in 16 bits."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
