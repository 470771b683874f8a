"""The Hadamard transform of the channels of a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def hadamard(x: Tensor) -> Tensor:
    """x [..., n] times the Hadamard matrix of Sylvester's order, times n^-1/2: same shape and dtype. n is a power of 2.

    Orthogonal, symmetric and its own inverse: products of two transformed rows are those of the rows, while a channel
    that stands out is spread over all. Computed in at least float32, by sums and differences in an order that depends
    on no other row.
    """
    if x.shape[-1] & (x.shape[-1] - 1) or not x.shape[-1]:
        raise ValueError(f"the Hadamard transform is of a power of two channels, not of {x.shape[-1]}")
    if torch.is_grad_enabled():
        out: Tensor = _Hadamard.apply(x)  # pyright: ignore[reportAssignmentType]
        return out
    return _transformed(x)


class _Hadamard(torch.autograd.Function):
    """The transform, which is its own gradient and needs nothing of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _transformed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _transformed(grad)


def _transformed(x: Tensor) -> Tensor:
    """What `hadamard` gives."""
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    y = x.to(wide, copy=True, memory_format=torch.contiguous_format)
    size = 1
    while size < x.shape[-1]:
        a, b = y.unflatten(-1, (-1, 2, size)).unbind(-2)
        difference = a - b
        a += b
        b.copy_(difference)
        size *= 2
    return y.mul_(x.shape[-1] ** -0.5).to(x.dtype)
