"""Grouped products against one product per row."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kernels import grouped_linear as module
from kernels.expert_rows import combine, dispatch
from kernels.grouped_linear import grouped_linear, grouped_linear_backward, grouped_linear_forward

OPERATOR = pytest.mark.parametrize("product", [grouped_linear, grouped_linear_forward], ids=["plain", "operator"])
"""Both ways to run it: in plain PyTorch, and as the opaque operator that a compiler sees."""
SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any)
Product = Callable[..., Tensor]


def operands(
    sizes: list[int], *, biased: bool, inputs_first: bool, dim: int = 5, out: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x, weight, ends, bias of groups of so many rows; a weight stored [groups, in, out] is handed over transposed."""
    r = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), dim, dtype=torch.float64, generator=r)
    stored = (len(sizes), dim, out) if inputs_first else (len(sizes), out, dim)
    weight = torch.randn(stored, dtype=torch.float64, generator=r)
    bias = torch.randn(len(sizes), out, dtype=torch.float64, generator=r) if biased else None
    ends = torch.tensor(list(accumulate(sizes)), dtype=torch.int32)
    return x, weight.mT if inputs_first else weight, ends, bias


@OPERATOR
@given(sizes=SIZES, biased=st.booleans(), inputs_first=st.booleans(), seed=st.integers(0, 1 << 30))
def test_each_row_meets_the_matrix_of_its_group(
    product: Product, sizes: list[int], biased: bool, inputs_first: bool, seed: int
) -> None:
    x, weight, ends, bias = operands(sizes, biased=biased, inputs_first=inputs_first, seed=seed)
    got = product(x, weight, ends, bias)
    groups = [e for e, size in enumerate(sizes) for _ in range(size)]
    for r, e in enumerate(groups):
        want = weight[e] @ x[r] + (0 if bias is None else bias[e])
        torch.testing.assert_close(got[r], want, rtol=0, atol=1e-12)


@OPERATOR
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("inputs_first", [False, True])
def test_gradient(product: Product, biased: bool, inputs_first: bool) -> None:
    x, weight, ends, bias = operands([2, 0, 1, 3], biased=biased, inputs_first=inputs_first)
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    assert torch.autograd.gradcheck(lambda x, w, *b: product(x, w, ends, *(b or (None,))), leaves)


@OPERATOR
@pytest.mark.parametrize("inputs_first", [False, True])
def test_a_group_without_rows_is_not_touched(product: Product, inputs_first: bool) -> None:
    """Not a number in its weights reaches no result and no gradient, and its own gradient is zero."""
    x, weight, ends, bias = operands([0, 2, 0, 3, 0], biased=True, inputs_first=inputs_first)
    assert bias is not None
    idle = [0, 2, 4]
    weight[idle], bias[idle] = float("nan"), float("nan")
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = product(leaves[0], leaves[1], ends, leaves[2])
    y.square().sum().backward()
    assert y.isfinite().all()
    for leaf in leaves:
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.any()
    assert all(not leaf.grad[idle].any() for leaf in leaves[1:] if leaf.grad is not None)


def test_a_stored_transposed_weight_gets_its_gradient_uncopied() -> None:
    """A gradient in another layout than its parameter's would be copied when it is kept."""
    x, weight, ends, _ = operands([2, 3], biased=False, inputs_first=True)
    stored = weight.mT.detach().requires_grad_()
    made: list[int] = []
    stored.register_hook(lambda grad: made.append(grad.data_ptr()))
    grouped_linear(x, stored.mT, ends).sum().backward()
    assert stored.grad is not None and [stored.grad.data_ptr()] == made


@pytest.mark.parametrize("inputs_first", [False, True])
def test_work_is_that_of_the_rows(inputs_first: bool) -> None:
    """One product ahead, two back; idle groups cost nothing."""
    x, weight, ends, bias = operands([3, 0, 4, 7], biased=True, inputs_first=inputs_first)
    leaves = [t.detach().requires_grad_() for t in (x, weight)]
    with FlopCounterMode(display=False) as counter:
        grouped_linear(leaves[0], leaves[1], ends, bias).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 14 * 5 * 3


def test_meta_tensors_cost_the_same() -> None:
    x, weight, ends, bias = (
        t if t is None else t.to("meta") for t in operands([4, 7], biased=True, inputs_first=False)
    )
    with FlopCounterMode(display=False) as counter:
        y = grouped_linear(x, weight, ends, bias)  # pyright: ignore[reportArgumentType]
    assert y.shape == (11, 3)
    assert counter.get_total_flops() == 2 * 11 * 5 * 3


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("inputs_first", [False, True])
def test_the_operators_are_known_to_compilers(biased: bool, inputs_first: bool) -> None:
    """Schema, fake tensors, autograd and tracing."""
    x, weight, ends, bias = operands([2, 0, 3], biased=biased, inputs_first=inputs_first)
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias)]
    forward = torch.library.opcheck(grouped_linear_forward, (leaves[0], leaves[1], ends, leaves[2]))
    grad = torch.ones(5, 3, dtype=torch.float64)
    backward = torch.library.opcheck(grouped_linear_backward, (grad, x, weight, ends, biased))
    assert set(forward.values()) == set(backward.values()) == {"SUCCESS"}


def test_rows_outside_every_group_are_refused() -> None:
    x, weight, ends, _ = operands([2, 3], biased=False, inputs_first=False)
    with pytest.raises(ValueError, match="the groups end at row 5 of 6"):
        grouped_linear(torch.cat([x, x[:1]]), weight, ends)


@pytest.mark.parametrize(
    ("product", "message"),
    [(grouped_linear, "once_differentiable"), (grouped_linear_forward, "no autograd formula")],
)
def test_a_second_derivative_is_refused(product: Product, message: str) -> None:
    x, weight, ends, _ = operands([2, 3], biased=False, inputs_first=False)
    leaf = x.requires_grad_()
    (grad,) = torch.autograd.grad(product(leaf, weight, ends, None).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=message):
        grad.sum().backward()


def test_gradients_by_torch_func() -> None:
    """Experts inside a function whose gradient is asked for, as per-parameter analyses do."""
    x, weight, ends, _ = operands([2, 0, 3], biased=False, inputs_first=False)
    ids = torch.tensor([[0], [0], [2], [2], [2]])

    def loss(w: Tensor) -> Tensor:
        rows, order, ends = dispatch(x, ids, experts=3)
        return combine(grouped_linear(rows, w, ends), torch.ones(5, 1, dtype=torch.float64), order).square().sum()

    y = grouped_linear(x, leaf := weight.clone().requires_grad_(), ends)
    torch.testing.assert_close(torch.func.grad(loss)(weight), torch.autograd.grad(y.square().sum(), leaf)[0])


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("inputs_first", [False, True])
def test_the_product_of_a_gpu_is_asked_for_the_same(
    biased: bool, inputs_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's grouped product also runs on a CPU: called as it is on a GPU, it gives what ours gives."""
    x, weight, ends, bias = operands([3, 0, 5, 8], biased=biased, inputs_first=inputs_first, dim=16, out=8)
    # Small whole numbers: no product or sum of them is rounded
    leaves = [t.detach().round().bfloat16().requires_grad_() for t in (x, weight, bias) if t is not None]
    upstream = torch.arange(16 * 8).view(16, 8).remainder(5).bfloat16()

    def run() -> list[Any]:
        y = grouped_linear(leaves[0], leaves[1], ends, *leaves[2:])
        return [y, *torch.autograd.grad(y, leaves, upstream)]

    want = run()
    monkeypatch.setattr(module, "_multiplied_on_device", lambda *_: True)
    called: list[tuple[int, ...]] = []
    theirs = F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", lambda x, w, *, offs: called.append(w.shape) or theirs(x, w, offs=offs))
    for mine, gpu in zip(want, run(), strict=True):
        assert torch.equal(gpu, mine)
    assert called == [(4, 16, 8)]
