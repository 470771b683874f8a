"""Numbers of few bits, in the dtype they came in: what a kernel or a cache of such a format would read of them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .packed_rows import E2M1, TILES

FORMATS = {"fp8": (TILES, 3, -6), "fp4": (E2M1, 1, 0)}
"""Groups and scales, bits of the mantissa, exponent of the smallest normal number."""


def quantise(x: Tensor, *, to: Literal["fp8", "fp4"]) -> Tensor:
    """x [..., C] rounded to FP8 (E4M3) in groups of 128 channels or to FP4 (E2M1) in groups of 32, each group with a
    power of two as its scale: same shape and dtype. C is less than a group or whole groups.

    Just what a `Fp8Tiles` or `Fp4Keys` row of `packed_rows` reads as, so a row made of the result loses nothing more.
    Gradients pass straight through.
    """
    if torch.is_grad_enabled():
        out: Tensor = _Quantise.apply(x, to)  # pyright: ignore[reportAssignmentType]
        return out
    return _rounded(x, to)


class _Quantise(torch.autograd.Function):
    """The rounding, which gradients pass as if it were not there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: str) -> Tensor:
        return _rounded(x, to)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None


def _rounded(x: Tensor, to: str) -> Tensor:
    """What `quantise` gives."""
    kind, mantissa, smallest = FORMATS[to]
    groups = x.float().unflatten(-1, (-1, min(kind.group, x.shape[-1])))
    top = groups.abs().amax(-1, keepdim=True).clamp(min=kind.least)
    bits = top.view(torch.int32)
    scale = ((bits >> 23) - kind.exponent + ((bits & 0x7FFFFF) > kind.mantissa) << 23).view(torch.float32)
    scale = scale + top * 0  # a group with a number that is not finite becomes NaN
    numbers = groups / scale
    step = _step(numbers, mantissa, smallest)
    rounded = (numbers / step).round_().mul_(step).mul_(scale)
    return rounded.flatten(-2).to(x.dtype)


def _step(numbers: Tensor, mantissa: int, smallest: int) -> Tensor:
    """The distance between neighbours of a format where numbers lie."""
    # In one expression: what is made on the way has no name that would keep it
    return ((numbers.view(torch.int32) >> 23 & 0xFF).clamp(min=127 + smallest) - mantissa << 23).view(torch.float32)
