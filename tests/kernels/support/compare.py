"""Calls of an op with its gradients, and how near to the exact result they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Float32 steps between operands and result, in units of rounding: sums of thousands, exp and rsqrt to a few ulp.
STEPS = 16


def value_and_gradients(
    op: Callable[..., Tensor], operands: Sequence[Tensor | None], upstream: Tensor, **settings: Any
) -> list[Tensor | None]:
    """op(*operands, **settings), then its gradient for each operand (None for absent ones), given the result's."""
    leaves = [None if operand is None else operand.detach().requires_grad_() for operand in operands]
    out = op(*leaves, **settings)
    wanted = [leaf for leaf in leaves if leaf is not None]
    gradients = iter(torch.autograd.grad(out, wanted, upstream))
    return [out.detach(), *(None if leaf is None else next(gradients) for leaf in leaves)]


def exact(
    op: Callable[..., Tensor], operands: Sequence[Tensor | None], upstream: Tensor, **settings: Any
) -> list[Tensor | None]:
    """The same in float64."""
    wide = [None if operand is None else operand.double() for operand in operands]
    return value_and_gradients(op, wide, upstream.double(), **settings)


def assert_near(got: Tensor, expected: Tensor, summands: Tensor | float | None = None) -> None:
    """None if ``got`` is ``expected`` (float64), rounded once to its dtype after a few steps in float32.

    ``summands`` is the size of the largest number added to make each element, where they may cancel.
    """
    assert got.shape == expected.shape
    assert got.isfinite().all(), "not finite"
    numbers = torch.finfo(got.dtype)
    size = expected.abs() if summands is None else torch.maximum(torch.as_tensor(summands).double(), expected.abs())
    bound = numbers.eps / 2 * expected.abs() + STEPS * torch.finfo(torch.float32).eps / 2 * size
    # Below the smallest normal number the spacing no longer shrinks.
    bound = bound + numbers.smallest_normal * numbers.eps
    excess = ((got.double() - expected).abs() - bound).max().item() if got.numel() else -1.0
    assert excess <= 0, f"{excess:.3g} beyond the bound; largest error {(got.double() - expected).abs().max():.3g}"
