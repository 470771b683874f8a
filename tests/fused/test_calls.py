"""Kernels that are called without Python in between: the very numbers that ctypes gets, of just the same operands."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels import calls, on_cpu, runners
from kernels.linear import linear
from tests.fused.handmade import composed, function, operands

DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True)
def compiled(compiled: None) -> None:
    """Tests of a machine on which calls cannot be compiled have nothing to see."""
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        pytest.skip("no headers of Python")
    assert calls.module() is not None


def plain(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [x.detach() for x in operands(shape, dtype)]


def call(dtype: torch.dtype = torch.float32) -> calls.Call:
    """What calls the function."""
    function()(*plain((1, 1), dtype))
    return function().calls[dtype]


@settings(max_examples=15)
@given(shape=st.tuples(st.integers(0, 3), st.integers(0, 5)), dtype=DTYPES)
def test_it_gives_what_ctypes_gets(shape: tuple[int, int], dtype: torch.dtype) -> None:
    takes = plain(shape, dtype)
    given = call(dtype)(*takes)
    runner = function().runners["cpp", dtype]
    assert isinstance(runner, runners.Native)
    wants = runner.forward(takes)
    assert len(given) == len(wants)
    for got, want in zip(given, wants, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert torch.equal(got, want)


def test_what_is_not_for_it_goes_on_in_python() -> None:
    run, takes = call(), plain((2, 3))
    assert run(*takes) is not None

    class Own(Tensor):
        pass

    others: dict[str, Callable[[Tensor], Any]] = {
        "dtype": lambda x: x.double(),
        "narrow": lambda x: x.bfloat16(),
        "subclass": lambda x: x.as_subclass(Own),
        "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
        "gradient": lambda x: x.clone().requires_grad_(),
        "device": lambda x: x.to("meta"),
        "none": lambda _: None,
        "fewer": lambda x: x[..., :1].contiguous(),
    }
    for name, other in others.items():
        for i in range(len(takes)):
            assert run(*takes[:i], other(takes[i]), *takes[i + 1 :]) is None, (name, i)
    assert run(*takes[:-1]) is None
    with torch.no_grad():
        assert run(takes[0].clone().requires_grad_(), *takes[1:]) is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert run(*takes) is None
    freed = takes[0].clone()
    freed.untyped_storage().resize_(0)
    assert run(freed, *takes[1:]) is None


def test_threads_run_side_by_side() -> None:
    many = [plain((1, n)) for n in range(1, 9)]
    wants = [call()(*takes) for takes in many]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(lambda takes: call()(*takes), many * 20), wants * 20, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_function_runs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = plain((2, 2))
    wants = function()(*takes)
    monkeypatch.setattr(calls, "module", lambda: None)
    monkeypatch.setattr(function(), "runners", {})
    monkeypatch.setattr(function(), "calls", {})
    for got, want, reference in zip(function()(*takes), wants, composed(*takes), strict=True):
        assert torch.equal(got, want)
        assert (got - reference).abs().max() < 1e-4
    assert function().calls == {}


# --------------------------------------------------------------------------------------------------------------- linear


@settings(max_examples=30)
@given(
    dtype=DTYPES,
    lead=st.lists(st.integers(0, 3), max_size=3),
    width=st.integers(1, 70),
    out=st.integers(0, 40),
    biased=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_linear(dtype: torch.dtype, lead: list[int], width: int, out: int, biased: bool, seed: int) -> None:
    r = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(*lead, width, generator=r).to(dtype), torch.randn(out, width, generator=r).to(dtype)
    bias = torch.randn(out, generator=r).to(dtype) if biased else None
    wide = [None if a is None else a.double() for a in (x, weight, bias)]
    want = torch.nn.functional.linear(*wide)  # pyright: ignore[reportArgumentType]
    got = linear(x, weight, bias)
    assert (got.shape, got.dtype) == (want.shape, dtype)
    slack = (1e-6 if dtype == torch.float32 else 2**-8) * (8 + width)
    assert (got.double() - want).abs().sum() <= slack * max(1, got.numel())
    few = x.numel() // width <= on_cpu.FEW_TOKENS
    assert (on_cpu.linear(x, weight, bias) is not None) == few


def test_linear_is_that_of_pytorch_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(1, 1, 8), torch.nn.Parameter(torch.randn(4, 8))
    assert on_cpu.linear(x, weight, None) is None
    linear(x, weight).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        assert on_cpu.linear(x, weight, None) is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
        with FlopCounterMode(display=False) as counted:
            linear(x, weight)
        assert counted.get_total_flops() == 2 * 4 * 8
        assert torch.vmap(lambda row: linear(row, weight))(x).shape == (1, 1, 4)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            linear(torch.randn(1, 7), weight)
        weight.data = weight.data.double()
        assert linear(x.double(), weight).dtype == torch.float64
        monkeypatch.setenv("ARCHC_KERNELS", "reference")
        assert on_cpu.linear(x, weight.float(), None) is None
