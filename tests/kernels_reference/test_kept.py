"""Results that a region keeps, against the same calls without one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.kept import Kept, again, kept


def region(run: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """A checkpoint that keeps what `kernels.kept` says."""
    return checkpoint(run, *args, use_reentrant=False, context_fn=lambda: Kept().contexts())


def counted(calls: list[str], name: str, x: Tensor, y: Tensor) -> Tensor:
    calls.append(name)
    return x @ y


def work(calls: list[str], x: Tensor, y: Tensor) -> Tensor:
    """A product in a `kept` one, one that runs again, and one that PyTorch dispatches."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
            ctx.save_for_backward(a, b)
            return kept(partial(counted, calls, "kept"), a, b)

        @staticmethod
        def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
            a, b = ctx.saved_tensors
            return grad @ b.mT, a.mT @ grad

    z = again(partial(counted, calls, "again"), x.sin(), y).mul_(2)  # in place: it is nobody else's
    z = Product.apply(z.cos(), y)
    return (z.exp() @ y).tanh()


@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_the_same_and_what_is_kept_runs_once(seed: int) -> None:
    torch.manual_seed(seed)
    x, y = (torch.randn(5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    plain, calls = [], []
    want = torch.autograd.grad(work(plain, x, y).sum(), (x, y))
    got = torch.autograd.grad(region(partial(work, calls), x, y).sum(), (x, y))
    assert all(map(torch.equal, got, want))
    assert plain == ["again", "kept"]
    assert calls == ["again", "kept", "again"]


def test_a_result_that_changed_is_refused() -> None:
    x = torch.randn(3, 3, requires_grad=True)
    out = region(lambda a: (a.sin() @ a).mul_(2).exp(), x)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.sum().backward()


def test_a_region_that_does_more_the_second_time_is_refused() -> None:
    x, runs = torch.randn(3, 3, requires_grad=True), []

    def grows(a: Tensor) -> Tensor:
        runs.append(1)
        with torch.no_grad():
            for _ in runs:
                a @ a
        return (a @ a).exp()

    with pytest.raises(RuntimeError, match="does more than it did at first"):
        region(grows, x).sum().backward()


def test_outside_of_regions_both_just_call() -> None:
    assert kept(max, 2, 3) == again(max, 2, 3) == 3
    assert kept(sorted, [1, 2], reverse=True) == [2, 1]
