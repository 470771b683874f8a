"""Doubly stochastic mixing matrices (mHC, arXiv:2512.24880, in the form of DeepSeek-V4's inference code)."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(logits: Tensor, *, iters: int, eps: float) -> Tensor:
    """[..., M, M] -> matrices whose columns sum to one and whose rows nearly do; computed in at least float32.

    ``iters`` passes over rows and columns; the softmax is the first pass over rows, and the last pass is over
    columns (dim -2). ``eps`` is added after the softmax and to every divisor.
    """
    m = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1) + eps
    m = m / (m.sum(-2, keepdim=True) + eps)
    for _ in range(iters - 1):
        m = m / (m.sum(-1, keepdim=True) + eps)
        m = m / (m.sum(-2, keepdim=True) + eps)
    return m.to(logits.dtype)
