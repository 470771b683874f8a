"""Functions with kernels: which operands these are for, gradients, compilers, what else PyTorch may do to them."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import calls, native, runners
from tests.fused.handmade import composed, function, operands


def loss(outs: tuple[Tensor, ...], scale: float = 1.0) -> Tensor:
    """A sum of what is given, each number with a weight of its own, in float64."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64) * scale for o in outs]
    return sum(((o.double() * w).sum() for o, w in zip(outs, weights, strict=True)), torch.zeros(()))


def gradients(call: object, takes: list[Tensor], scale: float = 1.0) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    outs = call(*takes)  # type: ignore[operator]
    return outs, list(torch.autograd.grad(loss(outs, scale), takes))


def off(a: Tensor, b: Tensor) -> float:
    """The distance of two tensors beside the length of the second."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-300))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts runs of the C++, by ctypes or without Python in between."""
    run, counted = runners.Native._run, Mock()

    def count(*args: Any, **more: Any) -> Any:
        counted()
        return run(*args, **more)

    def watched(call: calls.Call) -> calls.Call:
        def given(*takes: Tensor) -> Any:
            made = call(*takes)
            if made is not None:
                counted()
            return made

        return given

    function()(*(x.detach() for x in operands((1, 1), torch.float32)))
    function()(*(x.detach() for x in operands((1, 1), torch.bfloat16)))
    monkeypatch.setattr(runners.Native, "_run", count)
    monkeypatch.setattr(function(), "calls", {dtype: watched(call) for dtype, call in function().calls.items()})
    return counted


@settings(max_examples=8)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(0, 7)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    big=st.sampled_from([1.0, 1e30]),
)
def test_kernels_give_what_float64_gives(shape: tuple[int, int], dtype: torch.dtype, big: float) -> None:
    takes = operands(shape, dtype)
    outs, grads = gradients(function(), takes, big)
    wants, wanted = gradients(composed, [x.detach().double().requires_grad_() for x in takes], big)
    close = 1e-5 if dtype == torch.float32 else 3e-2
    if math.prod(shape):
        for got, want in zip((*outs, *grads), (*wants, *wanted), strict=True):
            assert got.isfinite().all()
            assert off(got, want) < close
    for take, grad in zip(takes, grads, strict=True):
        assert grad.dtype == take.dtype
        assert grad.shape == take.shape


def test_what_is_given_is_new_and_as_long_as_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "FORMS", 3)
    call, wants, kept = function(), [], []
    for i, shape in enumerate([(1, 1), (2, 3), (1, 1), (3, 2), (6, 1), (1, 0), (2, 3)]):
        takes = [x.detach() for x in operands(shape, torch.float32, seed=i)]
        with torch.inference_mode(i == 0):
            outs = call(*takes)
        assert all(o.is_contiguous() and o.is_inference() == (i == 0) for o in outs)
        wants.append(composed(*takes))
        kept.append(outs)
    for outs, want in zip(kept, wants, strict=True):
        for o, w in zip(outs, want, strict=True):
            torch.testing.assert_close(o, w, atol=1e-5, rtol=1e-4)


def test_kernels_run_in_float32_and_bfloat16_on_a_cpu(ran: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, runs in ((torch.float32, 1), (torch.bfloat16, 2), (torch.float16, 2), (torch.float64, 2)):
        outs = function()(*operands((1, 2), dtype))
        assert ran.call_count == runs
        assert outs[0].dtype == dtype
    takes = operands((1, 2), torch.float32)
    mixed = [takes[0].bfloat16(), *takes[1:]]
    assert function()(*mixed)[0].dtype == torch.bfloat16
    for mode in ("auto", "reference"):
        monkeypatch.setenv("ARCHC_KERNELS", mode)
        function()(*takes)
    assert ran.call_count == 2


def test_operands_with_gaps_and_repeated_rows(ran: Mock) -> None:
    takes = [x.detach() for x in operands((2, 3), torch.float32)]
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in takes[1:4]]
    spread = [takes[0][:1, :1, :1].expand_as(takes[0]), *turned, *takes[4:]]
    for graded in (False, True):
        made = [[x.requires_grad_(graded) for x in some] for some in (spread, [x.contiguous() for x in spread])]
        for got, want in zip(*(function()(*some) for some in made), strict=True):
            assert torch.equal(got, want)
    for got, want in zip(*(gradients(function(), some)[1] for some in made), strict=True):
        assert torch.equal(got, want)
    assert ran.call_count == 6


def test_only_what_wants_a_gradient_gets_one(ran: Mock) -> None:
    takes = [x.detach() for x in operands((1, 3), torch.float32)]
    assert not function()(*takes)[0].requires_grad
    takes[4].requires_grad_()
    loss(function()(*takes)).backward()
    assert [x.grad is not None for x in takes] == [i == 4 for i in range(len(takes))]
    assert ran.call_count == 2


def test_results_that_nobody_reads_have_gradients_of_zero() -> None:
    takes = operands((1, 3), torch.float32)
    (got,) = torch.autograd.grad(function()(*takes)[1].sum(), takes[1])
    (want,) = torch.autograd.grad(composed(*takes)[1].sum(), takes[1])
    assert off(got, want) < 1e-5


def test_a_gradient_of_a_gradient_says_what_to_do() -> None:
    takes = operands((1, 2), torch.float32)
    with pytest.raises(RuntimeError, match="one kernel has no gradient of its gradient: set ARCHC_KERNELS=reference"):
        torch.autograd.grad(loss(function()(*takes)), takes, create_graph=True)


def test_autocast_subclasses_and_transforms_take_the_reference(ran: Mock) -> None:
    takes = operands((1, 2), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        function()(*takes)

    class Own(Tensor):
        pass

    function()(takes[0].as_subclass(Own), *takes[1:])
    many = [torch.stack([x, x]) for x in takes]
    assert torch.vmap(function())(*many)[0].shape == (2, *takes[0].shape)
    function()(*(x.to("meta") for x in takes))
    assert ran.call_count == 0


def test_where_nothing_compiles_the_reference_runs(ran: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda *_: None)
    monkeypatch.setattr(function(), "runners", {})
    monkeypatch.setattr(function(), "calls", {})
    takes = operands((1, 2), torch.float32)
    for got, want in zip(function()(*takes), composed(*takes), strict=True):
        assert torch.equal(got, want)
    compiled = torch.compile(function().__call__, fullgraph=True, backend="aot_eager")
    assert off(compiled(*takes)[0], composed(*takes)[0]) < 1e-5
    assert ran.call_count == 0


@pytest.mark.parametrize("mode", ["cpp", "reference"])
def test_a_compiler_takes_it_in_one_graph(ran: Mock, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("ARCHC_KERNELS", mode)
    torch._dynamo.reset()
    takes = operands((2, 3), torch.float32)
    compiled = torch.compile(function().__call__, fullgraph=True, backend="aot_eager")
    outs, grads = gradients(compiled, takes)
    wants, wanted = gradients(composed, takes)
    for got, want in zip((*outs, *grads), (*wants, *wanted), strict=True):
        assert off(got, want) < 1e-5
    assert ran.call_count == (mode == "cpp")


def test_operators_are_what_they_say() -> None:
    takes = operands((1, 2), torch.float32)
    torch.library.opcheck(function().operator, (*takes, "cpp"))
