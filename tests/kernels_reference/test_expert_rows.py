"""Rows sorted by expert, and their weighted sums, against loops over tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.expert_rows import combine, dispatch


def choices(seed: int, tokens: int, experts: int, k: int) -> Tensor:
    """Ids [2, tokens, k]; those of a token differ."""
    r = torch.Generator().manual_seed(seed)
    picks = [torch.randperm(experts, generator=r)[:k] for _ in range(2 * tokens)]
    return torch.stack(picks).view(2, tokens, k)


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(seed=st.integers(0, 1 << 30), tokens=st.integers(1, 6), experts=st.integers(1, 7), data=st.data())
def test_rows_are_sorted_by_expert_then_by_token(seed: int, tokens: int, experts: int, data: st.DataObject) -> None:
    ids = choices(seed, tokens, experts, k := data.draw(st.integers(1, experts)))
    x = noise(seed, 2, tokens, 3)
    rows, order, ends = dispatch(x, ids, experts=experts)
    flat = ids.flatten().tolist()
    places = sorted(range(len(flat)), key=lambda choice: flat[choice])  # Python's sort is stable
    assert order.tolist() == places
    assert ends.tolist() == [sum(e <= last for e in flat) for last in range(experts)]
    assert torch.equal(rows, torch.stack([x.view(-1, 3)[choice // k] for choice in places]))


@given(seed=st.integers(0, 1 << 30), tokens=st.integers(1, 6), experts=st.integers(1, 7), data=st.data())
def test_a_token_gets_the_weighted_sum_of_its_rows(seed: int, tokens: int, experts: int, data: st.DataObject) -> None:
    ids = choices(seed, tokens, experts, k := data.draw(st.integers(1, experts)))
    _, order, _ = dispatch(noise(seed, 2, tokens, 3), ids, experts=experts)
    y, weights = noise(seed + 1, 2 * tokens * k, 3), noise(seed + 2, 2, tokens, k)
    want = torch.zeros(2, tokens, 3, dtype=torch.float64)
    for row, choice in enumerate(order.tolist()):
        b, t, j = choice // (tokens * k), choice // k % tokens, choice % k
        want[b, t] += weights[b, t, j] * y[row]
    torch.testing.assert_close(combine(y, weights, order), want, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 1 << 30), tokens=st.integers(1, 2), experts=st.integers(1, 7), data=st.data())
def test_decoding_gives_what_training_does(seed: int, tokens: int, experts: int, data: st.DataObject) -> None:
    """One row of one token or two, with and without a gradient: calls are saved where there is one and none is."""
    ids = choices(seed, tokens, experts, k := data.draw(st.integers(1, experts)))[:1]
    x, y, weights = noise(seed, 1, tokens, 3), noise(seed + 1, tokens * k, 3), noise(seed + 2, 1, tokens, k)
    with torch.no_grad():
        rows, order, ends = dispatch(x, ids, experts=experts)
        out = combine(y, weights, order)
    for got, want in zip((rows, order, ends), dispatch(x, ids, experts=experts), strict=True):
        assert torch.equal(got, want)
    want = torch.zeros(1, tokens, 3, dtype=torch.float64)
    for row, choice in enumerate(order.tolist()):
        want[0, choice // k] += weights[0, choice // k, choice % k] * y[row]
    torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(combine(y, weights, order), want, rtol=0, atol=1e-12)


def test_gradients() -> None:
    ids = choices(3, 4, 5, 3)
    order = dispatch(noise(0, 2, 4, 3), ids, experts=5)[1]
    x, y, weights = (t.requires_grad_() for t in (noise(0, 2, 4, 3), noise(1, 24, 3), noise(2, 2, 4, 3)))
    assert torch.autograd.gradcheck(lambda x: dispatch(x, ids, experts=5)[0], x)
    assert torch.autograd.gradcheck(lambda y, w: combine(y, w, order), (y, weights))


def test_a_second_derivative_is_refused() -> None:
    ids = choices(3, 4, 5, 3)
    x = noise(0, 2, 4, 3).requires_grad_()
    rows, order, _ = dispatch(x, ids, experts=5)
    out = combine(rows, torch.ones(2, 4, 3, dtype=torch.float64), order)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_sums_are_taken_in_float32() -> None:
    """Three rows of 1, 2^-8, 2^-8: added one by one in bfloat16 the small ones would be lost. So would weights that
    were rounded first."""
    order = torch.arange(3)
    y = torch.ones(3, 1, dtype=torch.bfloat16)
    weights = torch.tensor([[[1.0 + 2**-9, 2**-8, 2**-9]]])
    assert combine(y, weights, order).item() == 1 + 2**-7
    x = torch.ones(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    rows = dispatch(x, torch.tensor([[[0, 1, 2]]]), experts=3)[0]
    rows.backward(torch.tensor([[1.0], [2**-8], [2**-8]], dtype=torch.bfloat16))
    assert x.grad is not None and x.grad.item() == 1 + 2**-7


def test_gradients_of_weights_are_taken_in_float32() -> None:
    y = torch.full((1, 512), 1 + 2**-7, dtype=torch.bfloat16, requires_grad=True)
    weights = torch.ones(1, 1, 1, requires_grad=True)
    combine(y, weights, torch.tensor([0])).sum().backward()
    assert weights.grad is not None and weights.grad.item() == 512 * (1 + 2**-7)


def test_moving_rows_is_no_matrix_product() -> None:
    ids = choices(1, 7, 9, 3)
    x = noise(1, 2, 7, 5).requires_grad_()
    weights = noise(2, 2, 7, 3).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        rows, order, _ = dispatch(x, ids, experts=9)
        combine(rows, weights, order).sum().backward()
    assert counter.get_total_flops() == 0


def test_meta_tensors_are_routed() -> None:
    x, ids = torch.empty(2, 7, 5, device="meta"), torch.empty(2, 7, 3, dtype=torch.int64, device="meta")
    rows, order, ends = dispatch(x, ids, experts=9)
    assert (rows.shape, order.shape, ends.shape) == ((42, 5), (42,), (9,))
    assert combine(rows, torch.empty(2, 7, 3, device="meta"), order).shape == (2, 7, 5)
