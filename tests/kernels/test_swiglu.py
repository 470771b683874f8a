"""The gated activation: reference and Triton kernels against float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.swiglu import reference, swiglu
from tests.kernels.support import layouts
from tests.kernels.support.compare import assert_near, exact, value_and_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from tests.kernels.support.worker import Worker


PLAIN: dict[str, Any] = {"limit": None}
GPT_OSS: dict[str, Any] = {"limit": 7.0, "alpha": 1.702, "shift": 1.0}
SETTINGS = st.fixed_dictionaries(
    {"limit": st.sampled_from((None, 0.5, 1.0, 7.0))},
    optional={"alpha": st.sampled_from((0.5, 1.702)), "shift": st.sampled_from((1.0, -0.3))},
)


def oracle(gate: Tensor, up: Tensor, *, limit: float | None, alpha: float = 1.0, shift: float = 0.0) -> Tensor:
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate / (1 + torch.exp(-alpha * gate)) * (up + shift)


def check(got: list[Tensor | None], gate: Tensor, up: Tensor, upstream: Tensor, settings: dict[str, Any]) -> None:
    """The output and gradients are near those of the oracle in float64."""
    out, dgate, dup = exact(oracle, (gate, up), upstream, **settings)
    limit, alpha, shift = settings["limit"], settings.get("alpha", 1.0), abs(settings.get("shift", 0.0))
    x, bound = gate.double(), up.double().abs()
    if limit is not None:
        x, bound = x.clamp(max=limit), bound.clamp(max=limit)
    # Of up + shift, and of the slope s (1 + alpha x (1 - s)), the terms may cancel.
    bound, opened = bound + shift, torch.sigmoid(alpha * x)
    terms = (bound * x.abs() * opened, upstream.double().abs() * bound * opened * (1 + alpha * x.abs()), None)
    for mine, theirs, size in zip(got, (out, dgate, dup), terms, strict=True):
        assert mine is not None and theirs is not None and mine.dtype == gate.dtype
        assert_near(mine, theirs, size)


@settings(max_examples=60, deadline=None)
@given(
    count=layouts.counts,
    batch=st.integers(1, 3),
    width=layouts.widths,
    dtype=layouts.dtypes,
    layout=layouts.layouts,
    up_layout=layouts.layouts,
    upstream_layout=layouts.layouts,
    how=SETTINGS,
    scale=st.sampled_from((0.3, 1.0, 6.0)),
    seed=layouts.seeds,
)
def test_kernels_are_near_float64(
    interpreted: Worker,
    count: int,
    batch: int,
    width: int,
    dtype: torch.dtype,
    layout: str,
    up_layout: str,
    upstream_layout: str,
    how: dict[str, Any],
    scale: float,
    seed: int,
) -> None:
    shape = (batch, count, width)
    gate = layouts.random(shape, seed=seed, dtype=dtype, layout=layout, scale=scale)
    up = layouts.random(shape, seed=seed + 1, dtype=dtype, layout=up_layout, scale=scale)
    upstream = layouts.random(shape, seed=seed + 2, dtype=dtype, layout=upstream_layout)
    check(interpreted(value_and_gradients, swiglu, (gate, up), upstream, **how), gate, up, upstream, how)
    check(value_and_gradients(reference, (gate, up), upstream, **how), gate, up, upstream, how)


@pytest.mark.parametrize(("rows", "width"), [(3, 14336), (5, 11008), (2, 2048), (9, 2112), (2, 10000)])
def test_widths_of_real_models(interpreted: Worker, rows: int, width: int) -> None:
    gate, up, upstream = (layouts.random((rows, width), seed=s, dtype=torch.bfloat16) for s in range(3))
    check(interpreted(value_and_gradients, swiglu, (gate, up), upstream, **PLAIN), gate, up, upstream, PLAIN)


def test_halves_of_one_projection_are_read_in_place(interpreted: Worker) -> None:
    fused = layouts.random((4, 5, 256), seed=1, dtype=torch.bfloat16)
    gate, up = fused.chunk(2, dim=-1)
    upstream = layouts.random((4, 5, 128), seed=2, dtype=torch.bfloat16)
    check(interpreted(value_and_gradients, swiglu, (gate, up), upstream, **PLAIN), gate, up, upstream, PLAIN)


def test_interleaved_branches_of_one_projection(interpreted: Worker) -> None:
    """As gpt-oss stores them: channels of gate and up take turns."""
    fused = layouts.random((4, 5, 256), seed=1, dtype=torch.bfloat16, scale=3.0)
    gate, up = fused.unflatten(-1, (128, 2)).unbind(-1)
    upstream = layouts.random((4, 5, 128), seed=2, dtype=torch.bfloat16)
    check(interpreted(value_and_gradients, swiglu, (gate, up), upstream, **GPT_OSS), gate, up, upstream, GPT_OSS)


@pytest.mark.parametrize("run", ["interpreted", "reference"])
def test_gradients_pass_at_the_limit_and_not_beyond(run: str, interpreted: Worker) -> None:
    gate = torch.tensor([2.0, 2.5, -9.0, 1.0, 1.0, 1.0, 1.0])
    up = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.5, -2.0, -2.5])
    upstream = torch.ones(7)
    if run == "interpreted":
        _, dgate, dup = interpreted(value_and_gradients, swiglu, (gate, up), upstream, limit=2.0)
    else:
        _, dgate, dup = value_and_gradients(reference, (gate, up), upstream, limit=2.0)
    assert dgate is not None and dup is not None
    assert dgate.ne(0).tolist() == [True, False, True, True, True, True, True]
    assert dup.ne(0).tolist() == [True, True, True, True, False, True, False]


@pytest.mark.parametrize("limit", [None, 1.0])
def test_nan_is_not_hidden_by_the_limit(interpreted: Worker, limit: float | None) -> None:
    gate, up = torch.tensor([torch.nan, 1.0, 1.0]), torch.tensor([1.0, torch.nan, 1.0])
    for got in (interpreted(swiglu, gate, up, limit=limit), swiglu(gate, up, limit=limit)):
        assert got.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_gradients_stay_finite(interpreted: Worker, dtype: torch.dtype) -> None:
    gate, up = (layouts.random((5, 64), seed=s, dtype=dtype, scale=15.0) for s in (1, 2))
    upstream = layouts.random((5, 64), seed=3, dtype=dtype, scale=1e30)
    check(interpreted(value_and_gradients, swiglu, (gate, up), upstream, **PLAIN), gate, up, upstream, PLAIN)


def test_float64_stays_float64(interpreted: Worker) -> None:
    gate, up = (layouts.random((4, 36), seed=s, dtype=torch.float64) for s in (1, 2))
    for got in (swiglu(gate, up), interpreted(swiglu, gate, up)):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, oracle(gate, up, limit=None), rtol=1e-14, atol=0)


def test_unequal_operands_are_refused() -> None:
    with pytest.raises(ValueError, match="equal operands"):
        swiglu(torch.zeros(2, 8), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="equal operands"):
        swiglu(torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.bfloat16))


@pytest.mark.parametrize("settings", [{}, {"limit": 1.0}, {"alpha": 1.702, "shift": 1.0, "limit": 7.0}])
def test_without_a_gradient_operands_are_left_alone(settings: dict[str, float]) -> None:
    gate, up = layouts.random((6, 5), seed=1, dtype=torch.float32), layouts.random((6, 5), seed=2, dtype=torch.float32)
    copies, want = (gate.clone(), up.clone()), reference(gate, up, **settings)
    with torch.no_grad():
        assert torch.equal(reference(gate, up, **settings), want)
    assert torch.equal(gate, copies[0])
    assert torch.equal(up, copies[1])
