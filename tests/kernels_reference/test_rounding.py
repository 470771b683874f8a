"""The Hadamard transform and numbers of few bits, against their definitions and against what caches store."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.hadamard import hadamard
from kernels.packed_rows import Fp4Keys, Fp8Tiles
from kernels.quantise import quantise
from tests.oracles import packed, rounding

FORMATS: tuple[Any, ...] = ("fp8", "fp4")
STORED = {"fp8": Fp8Tiles(), "fp4": Fp4Keys()}
seeds = st.integers(0, 1 << 30)
kinds = st.sampled_from(FORMATS)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


def rows(seed: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of very different sizes [3, 2, width]."""
    r = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, width, generator=r, dtype=torch.float64)
    return (x * 2.0 ** torch.randint(-12, 12, (3, 2, 1), generator=r)).to(dtype)


def same(a: Tensor, b: Tensor) -> None:
    """Bit by bit, signs of zeros included; NaN is NaN."""
    assert a.dtype == b.dtype
    assert list(map(repr, a.flatten().tolist())) == list(map(repr, b.flatten().tolist()))


# --- the transform -------------------------------------------------------------------------------
@given(seed=seeds, width=st.sampled_from([1, 2, 4, 8, 32, 128]))
def test_the_transform_is_the_product_with_the_matrix(seed: int, width: int) -> None:
    """Of whole numbers, whose sums are exact in any order: to the last bit."""
    x = torch.randint(-100, 100, (2, 3, width), generator=torch.Generator().manual_seed(seed)).double()
    want = np.apply_along_axis(rounding.transformed, -1, x.numpy())
    same(hadamard(x), torch.from_numpy(want))


@given(seed=seeds, width=st.sampled_from([2, 16, 64]))
def test_the_transform_undoes_itself_and_keeps_products(seed: int, width: int) -> None:
    x, y = rows(seed, width, torch.float64), rows(seed + 1, width, torch.float64)
    before = x.clone()
    torch.testing.assert_close(hadamard(hadamard(x)), x, rtol=1e-12, atol=1e-12 * float(x.abs().max()))
    assert torch.equal(x, before)
    scale = float((x.norm(dim=-1) * y.norm(dim=-1)).max())
    torch.testing.assert_close((hadamard(x) * hadamard(y)).sum(-1), (x * y).sum(-1), rtol=0, atol=1e-12 * scale)


@given(seed=seeds, dtype=dtypes)
def test_a_row_is_transformed_as_if_alone(seed: int, dtype: torch.dtype) -> None:
    """However it lies, with others or not, to the last bit; narrow ones rounded once, at the end."""
    x = rows(seed, 32, dtype)
    whole = hadamard(x)
    for at in np.ndindex(3, 2):
        same(whole[at], hadamard(x[at]))
    same(whole, hadamard(x.transpose(0, 2).contiguous().transpose(0, 2)))
    same(whole, hadamard(x.to(torch.promote_types(dtype, torch.float32))).to(dtype))


def test_the_gradient_of_the_transform() -> None:
    x = rows(0, 8, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(hadamard, (x,))


@pytest.mark.parametrize("width", [3, 6, 12])
def test_other_widths_have_no_transform(width: int) -> None:
    with pytest.raises(ValueError, match=f"a power of two channels, not of {width}"):
        hadamard(torch.zeros(2, width))


# --- the formats ---------------------------------------------------------------------------------
@given(seed=seeds, kind=kinds, width=st.sampled_from([1, 8, 16, 32, 128, 256]), dtype=dtypes)
def test_numbers_are_those_of_the_formats(seed: int, kind: Any, width: int, dtype: torch.dtype) -> None:
    x = rows(seed, width, dtype)
    want = np.apply_along_axis(rounding.quantised, -1, x.double().numpy(), kind)
    same(quantise(x, to=kind), torch.from_numpy(want).to(dtype))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shift", [0, 9, -7])
def test_every_number_and_every_tie(kind: Any, shift: int) -> None:
    """The largest number stands in each group, so that its scale is 2 ** shift."""
    size, values = (128, packed.FP8) if kind == "fp8" else (32, packed.FP4)
    points = [*values, *((a + b) / 2 for a, b in pairwise(values))]
    points = [sign * x * by for x in points for sign in (1, -1) for by in (1, 1 - 2.0**-20, 1 + 2.0**-20)]
    for start in range(0, len(points), size - 1):
        few = points[start : start + size - 1]
        group = np.array([values[-1], *few, *[0.0] * (size - 1 - len(few))]) * 2.0**shift
        got = quantise(torch.from_numpy(group).float(), to=kind)
        same(got, torch.from_numpy(rounding.quantised(group, kind)).float())


numbers = st.floats(-(2.0**126), 2.0**126, width=32) | st.sampled_from([math.inf, -math.inf, math.nan])
"""Larger ones may be rounded to an infinity."""


@given(kind=kinds, row=st.lists(numbers, min_size=32, max_size=32), dtype=dtypes)
def test_caches_store_it_without_further_loss(kind: Any, row: list[float], dtype: torch.dtype) -> None:
    """It is what they would read, and what it is rounded to stays as it is."""
    x, stored = torch.tensor([row], dtype=dtype), STORED[kind]
    got = quantise(x, to=kind)
    same(got, stored.decode(stored.encode(x), 32, dtype))
    same(got, stored.decode(stored.encode(got), 32, dtype))
    same(got, quantise(got, to=kind))


@given(seed=seeds, kind=kinds, dtype=dtypes)
def test_gradients_pass_straight_through(seed: int, kind: Any, dtype: torch.dtype) -> None:
    x, grad = rows(seed, 64, dtype).requires_grad_(), rows(seed + 1, 64, dtype)
    out = quantise(x, to=kind)
    out.backward(grad)
    assert x.grad is not None
    same(x.grad, grad)
    with torch.no_grad():
        same(out.detach(), quantise(x, to=kind))


def test_the_transform_spares_what_stands_out() -> None:
    """Why it comes first: one large channel takes the steps of all others from them."""
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    x[:, 5] = 300
    small = [i for i in range(128) if i != 5]

    def error(y: Tensor) -> float:
        return float((y - x)[:, small].norm() / x[:, small].norm())

    plain, spread = quantise(x, to="fp4"), hadamard(quantise(hadamard(x), to="fp4"))
    assert math.isfinite(error(plain))
    assert torch.equal(plain[:, :5], torch.zeros(64, 5))
    assert float((spread - x).norm() / x.norm()) < 0.2
