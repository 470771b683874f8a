"""What becomes of tokens that skip layers: exact at both ends, a blend between, in any dtype."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kernels.bypass import bypass_depth, either, hold, unsure


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 7, 3, 5), (2, 7)])
def test_hold(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = (100 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    ends = (torch.rand(2, 7, generator=generator) < 0.5).float()
    for row in range(2):
        for column in range(7):
            want = (before if ends[row, column] else after)[row, column]
            assert torch.equal(hold(before, after, ends)[row, column], want)
    half = hold(before, after, torch.full((2, 7), 0.25))
    assert half.dtype == dtype
    want = 0.25 * before.double() + 0.75 * after.double()
    torch.testing.assert_close(half.double(), want, rtol=0, atol=200 * torch.finfo(dtype).eps)


def test_hold_gives_what_the_layer_got_in_its_dtype() -> None:
    before, after = torch.ones(1, 1, 2, dtype=torch.bfloat16), torch.zeros(1, 1, 2)
    assert hold(before, after, torch.ones(1, 1)).dtype == torch.bfloat16


def test_the_gradient_of_hold_is_the_slope() -> None:
    generator = torch.Generator().manual_seed(1)
    ins = [torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    c = torch.rand(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(hold, (*ins, c))


def test_either_is_a_certainty_where_one_is() -> None:
    a, b = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 0.3, 1.0, 0.5])
    torch.testing.assert_close(either(a, b), torch.tensor([0.0, 1.0, 1.0, 1.0, 0.75]))


def test_depth_counts_tokens_not_padding() -> None:
    time = SimpleNamespace(valid=torch.tensor([[True, True, False], [True, False, False]]))
    c = torch.tensor([[0.5, 1.0, 0.0], [0.0, 9.0, 9.0]])
    assert float(bypass_depth(c, time)) == pytest.approx((0.5 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("dtype", "want"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_nobody_is_sure_at_first(dtype: torch.dtype, want: torch.dtype) -> None:
    got = unsure(torch.ones(2, 3, 4, 5, dtype=dtype))
    assert got.dtype == want
    assert got.tolist() == [[0.0] * 3] * 2
