"""RMS normalisation: reference and Triton kernels against float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.rms_norm import reference, rms_norm
from tests.kernels.support import layouts
from tests.kernels.support.compare import assert_near, exact, value_and_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from tests.kernels.support.worker import Worker


def oracle(x: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
    out = x / (x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()
    return out if weight is None else out * weight


def check(got: list[Tensor | None], x: Tensor, weight: Tensor | None, upstream: Tensor, eps: float) -> None:
    """The output and gradients are near those of the oracle in float64."""
    out, dx, dweight = exact(oracle, (x, weight), upstream, eps=eps)
    unit = oracle(x.double(), None, eps=eps)
    along = upstream.double() if weight is None else upstream.double() * weight.double()
    scale = 1 / (x.double().pow(2).mean(-1, keepdim=True) + eps).sqrt()
    # dx = scale (g w - unit mean(g w unit)): the mean may cancel, and so may the difference.
    mean = (along * unit).abs().mean(-1, keepdim=True)
    assert got[0] is not None and got[1] is not None and out is not None and dx is not None
    assert got[0].dtype == got[1].dtype == x.dtype
    assert_near(got[0], out)
    assert_near(got[1], dx, scale * (along.abs() + unit.abs() * mean))
    if weight is None or dweight is None:
        assert got[2] is None
    else:
        assert got[2] is not None and got[2].dtype == weight.dtype
        rows = tuple(range(x.dim() - 1))
        assert_near(got[2], dweight, (upstream.double() * unit).abs().sum(rows) if x.numel() else None)


@settings(max_examples=60, deadline=None)
@given(
    count=layouts.counts,
    batch=st.integers(1, 3),
    width=layouts.widths,
    dtype=layouts.dtypes,
    weight_dtype=st.sampled_from((None, *layouts.DTYPES)),
    layout=layouts.layouts,
    upstream_layout=layouts.layouts,
    eps=st.sampled_from((1e-6, 1e-5, 1e-2)),
    seed=layouts.seeds,
)
def test_kernels_are_near_float64(
    interpreted: Worker,
    count: int,
    batch: int,
    width: int,
    dtype: torch.dtype,
    weight_dtype: torch.dtype | None,
    layout: str,
    upstream_layout: str,
    eps: float,
    seed: int,
) -> None:
    shape = (batch, count, width)
    x = layouts.random(shape, seed=seed, dtype=dtype, layout=layout)
    upstream = layouts.random(shape, seed=seed + 1, dtype=dtype, layout=upstream_layout)
    weight = (
        None if weight_dtype is None else layouts.random((width,), seed=seed + 2, dtype=weight_dtype, layout=layout)
    )
    check(interpreted(value_and_gradients, rms_norm, (x, weight), upstream, eps=eps), x, weight, upstream, eps)
    check(value_and_gradients(reference, (x, weight), upstream, eps=eps), x, weight, upstream, eps)


@pytest.mark.parametrize(
    ("rows", "width"), [(3, 4096), (2, 7168), (7, 16384), (5, 9000), (70, 512), (257, 8), (2, 20000)]
)
def test_widths_of_real_models(interpreted: Worker, rows: int, width: int) -> None:
    x = layouts.random((rows, width), seed=1, dtype=torch.bfloat16)
    upstream = layouts.random((rows, width), seed=2, dtype=torch.bfloat16)
    weight = layouts.random((width,), seed=3, dtype=torch.float32)
    check(interpreted(value_and_gradients, rms_norm, (x, weight), upstream, eps=1e-6), x, weight, upstream, 1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_gradients_stay_finite(interpreted: Worker, dtype: torch.dtype, scale: float) -> None:
    x = layouts.random((5, 256), seed=1, dtype=dtype, scale=scale)
    upstream = layouts.random((5, 256), seed=2, dtype=dtype, scale=1e30)
    weight = layouts.random((256,), seed=3, dtype=dtype)
    check(interpreted(value_and_gradients, rms_norm, (x, weight), upstream, eps=1e-6), x, weight, upstream, 1e-6)


def test_float64_stays_float64() -> None:
    x = layouts.random((4, 36), seed=1, dtype=torch.float64)
    weight = layouts.random((36,), seed=2, dtype=torch.float64)
    got = rms_norm(x, weight, eps=1e-6)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, oracle(x, weight, eps=1e-6), rtol=1e-14, atol=0)


def test_float64_takes_the_reference_under_triton(interpreted: Worker) -> None:
    x = layouts.random((4, 36), seed=1, dtype=torch.float64)
    torch.testing.assert_close(interpreted(rms_norm, x, None, eps=1e-6), oracle(x, None, eps=1e-6), rtol=1e-14, atol=0)


def test_a_row_of_zeros_is_zero_with_finite_gradient(interpreted: Worker) -> None:
    x, upstream = torch.zeros(2, 64), torch.ones(2, 64)
    out, dx, _ = interpreted(value_and_gradients, rms_norm, (x, None), upstream, eps=1e-6)
    assert torch.equal(out, x)
    torch.testing.assert_close(dx, torch.full_like(x, 1e3))


def test_frozen_weights_get_no_gradient(interpreted: Worker) -> None:
    x, weight, upstream = torch.randn(3, 8), torch.randn(8), torch.randn(3, 8)
    got = interpreted(_gradient_with_frozen_weight, x, weight, upstream)
    expected = exact(oracle, (x, weight), upstream, eps=1e-6)[1]
    assert expected is not None
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def _gradient_with_frozen_weight(x: Tensor, weight: Tensor, upstream: Tensor) -> Tensor:
    x.requires_grad_()
    out = rms_norm(x, weight, eps=1e-6)
    out.backward(upstream)
    assert weight.grad is None and x.grad is not None
    return x.grad


def test_the_weight_gradient_is_the_same_every_time(interpreted: Worker) -> None:
    x, upstream = (layouts.random((37, 96), seed=s, dtype=torch.bfloat16) for s in (1, 2))
    weight = torch.ones(96)
    first, second = (interpreted(value_and_gradients, rms_norm, (x, weight), upstream, eps=1e-6) for _ in range(2))
    assert torch.equal(first[2], second[2])


def test_a_weight_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[8\], not \[4\]"):
        rms_norm(torch.zeros(2, 8), torch.zeros(4), eps=1e-6)
