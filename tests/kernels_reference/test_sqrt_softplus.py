"""The square root of a softplus against arithmetic of 60 digits, and the activation that transformers has for V4."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.sqrt_softplus import sqrt_softplus

GRID = [
    -104.0,
    -103.5,
    -100.0,
    -88.0,
    -87.25,
    -40.1,
    -40.0,
    -39.9,
    -20.0,
    -1.5,
    0.0,
    0.25,
    3.0,
    20.0,
    33.0,
    60.0,
    100.0,
]


def exact(x: float) -> float:
    with localcontext() as context:
        context.prec = 60
        return float((1 + Decimal(x).exp()).ln().sqrt())


def exact_slope(x: float) -> float:
    """sigmoid(x) / (2 sqrt(softplus(x)))"""
    with localcontext() as context:
        context.prec = 60
        root = (1 + Decimal(x).exp()).ln().sqrt()
        return float(1 / (1 + (-Decimal(x)).exp()) / (2 * root))


def slope(x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(sqrt_softplus(x).sum(), x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(x=st.one_of(st.sampled_from(GRID), st.floats(-104, 104, width=32)))
def test_values_and_slopes_are_right_to_a_few_roundings(dtype: torch.dtype, x: float) -> None:
    got = sqrt_softplus(torch.tensor([x], dtype=dtype))
    eps = torch.finfo(dtype).eps
    assert got.dtype == dtype
    # e^x itself is off by a rounding, and so is x / 2 at most.
    assert float(got) == pytest.approx(exact(x), rel=4 * eps)
    assert float(slope(torch.tensor([x], dtype=dtype))) == pytest.approx(exact_slope(x), rel=8 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_line(dtype: torch.dtype) -> None:
    """Nothing overflows, and what vanishes has no slope (that of the root of zero is infinite)."""
    x = torch.tensor([-math.inf, -1e30, -1e4, 1e4, 1e30], dtype=dtype)
    got = sqrt_softplus(x)
    torch.testing.assert_close(got, torch.tensor([0.0, 0.0, 0.0, 100.0, 1e15], dtype=dtype))
    assert slope(x).isfinite().all()


def test_transformers_has_the_same_where_its_softplus_has_digits() -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-80, 80, 4001)
    torch.testing.assert_close(sqrt_softplus(x), ACT2FN["sqrtsoftplus"](x), rtol=3e-7, atol=0)
