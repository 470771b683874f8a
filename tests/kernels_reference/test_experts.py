"""Experts in one call of C++ against their ops in float64."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import experts as kernel
from kernels.expert_rows import combine, dispatch
from kernels.experts import Gate, Mixture
from kernels.grouped_linear import grouped_linear
from kernels.swiglu import swiglu

CLOSE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
"""Of the largest number: bfloat16 rounds to 8 bits."""

gates = st.builds(
    Gate,
    by_turns=st.booleans(),
    limit=st.sampled_from([None, 0.5, 10.0]),
    alpha=st.sampled_from([1.0, 1.702]),
    shift=st.sampled_from([0.0, 1.0]),
)


@pytest.fixture(autouse=True, scope="module")
def compiled() -> Iterator[None]:
    """C++ runs, and is kept between runs of the tests."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        folder = Path(tempfile.gettempdir()) / f"archc-tests-{os.getuid()}"
        patch.setenv("ARCHC_CACHE", os.environ.get("ARCHC_CACHE", str(folder)))
        patch.setenv("ARCHC_KERNELS", "cpp")
        yield


def mixture(gate: Gate, inputs_first: bool = False) -> Mixture:
    """The function, with its ops."""

    def opened(both: Tensor) -> Tensor:
        a, b = both.unflatten(-1, (-1, 2)).unbind(-1) if gate.by_turns else both.chunk(2, -1)
        return swiglu(a, b, limit=gate.limit, alpha=gate.alpha, shift=gate.shift)

    def reference(x: Tensor, ids: Tensor, weights: Tensor, *parameters: Tensor) -> Tensor:
        first, first_bias, second, second_bias = (
            parameters if len(parameters) == 4 else (parameters[0], None, parameters[1], None)
        )
        first, second = (m.mT if inputs_first else m for m in (first, second))
        rows, order, ends = dispatch(x, ids, experts=len(first))
        hidden = opened(grouped_linear(rows, first, ends, first_bias))
        return combine(grouped_linear(hidden, second, ends, second_bias), weights, order)

    return Mixture(reference, opened, gate=gate, inputs_first=inputs_first)


def drawn(
    dtype: torch.dtype, *, seed: int = 0, tokens: int, experts: int, k: int, dim: int, hidden: int, biased: bool = False
) -> list[Tensor]:
    """What it takes: x, ids, weights and parameters."""
    r = torch.Generator().manual_seed(seed)
    ids = torch.rand(1, tokens, experts, generator=r).argsort(-1)[..., :k]
    matrices = [torch.randn(experts, 2 * hidden, dim, generator=r), torch.randn(experts, dim, hidden, generator=r)]
    matrices = [m / m.shape[-1] ** 0.5 for m in matrices]
    biases = [torch.randn(m.shape[:2], generator=r) for m in matrices]
    parameters = [p for pair in zip(matrices, biases, strict=True) for p in (pair if biased else pair[:1])]
    x, weights = torch.randn(1, tokens, dim, generator=r), torch.rand(1, tokens, k, generator=r)
    return [x.to(dtype), ids, weights, *(p.to(dtype) for p in parameters)]


def wide(takes: list[Tensor]) -> list[Tensor]:
    return [x.double() if x.is_floating_point() else x for x in takes]


def native(gate: Gate, takes: list[Tensor]) -> Tensor:
    """What C++ gives; it must run."""
    x, ids, weights, *parameters = takes
    made = kernel._in_one(x, ids, weights, tuple(parameters), gate)
    assert made is not None
    torch.testing.assert_close(made, mixture(gate)(*takes), rtol=0, atol=0, equal_nan=True)
    return made


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.shape == expected.shape
    if got.numel():
        assert (got.double() - expected).abs().max() <= CLOSE[dtype] * max(1.0, float(expected.abs().max()))


@settings(max_examples=60)
@given(
    gate=gates,
    dtype=st.sampled_from(list(CLOSE)),
    seed=st.integers(0, 1 << 30),
    tokens=st.one_of(st.integers(0, 9), st.integers(10, 130)),
    experts=st.integers(1, 7),
    k=st.integers(1, 4),
    dim=st.integers(1, 70),
    hidden=st.integers(1, 40),
    biased=st.booleans(),
)
def test_it_is_its_ops(gate: Gate, dtype: torch.dtype, experts: int, k: int, **sizes) -> None:
    """Experts of one token, of few, of panels that are full or not, and of none."""
    takes = drawn(dtype, experts=experts, k=min(k, experts), **sizes)
    close(native(gate, takes), mixture(gate)(*wide(takes)), dtype)


@settings(max_examples=40)
@given(
    gate=gates,
    dtype=st.sampled_from(list(CLOSE)),
    seed=st.integers(0, 1 << 30),
    tokens=st.integers(1, 40),
    experts=st.integers(1, 7),
    k=st.integers(1, 4),
    dim=st.integers(1, 40),
    hidden=st.integers(1, 20),
    biased=st.booleans(),
    inputs_first=st.booleans(),
)
def test_it_is_its_ops_without_cpp(
    gate: Gate, dtype: torch.dtype, experts: int, k: int, biased: bool, inputs_first: bool, **sizes
) -> None:
    """One token, and expert by expert."""
    takes = drawn(dtype, experts=experts, k=min(k, experts), biased=biased, **sizes)
    if inputs_first:
        takes[3 :: 2 if biased else 1] = [m.mT.contiguous() for m in takes[3 :: 2 if biased else 1]]
    function = mixture(gate, inputs_first)
    expected = function.reference(*wide(takes))
    ways = [function._by_expert] + [function._of_one] * (sizes["tokens"] == 1)
    for way in ways:
        close(way(*takes[:3], tuple(takes[3:])), expected, dtype)


def test_which_way_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHC_KERNELS", "auto")
    function = mixture(Gate())
    ran: list[str] = []
    for name in ("reference", "_of_one", "_by_expert"):
        own = getattr(function, name)
        monkeypatch.setattr(function, name, lambda *a, own=own, name=name: [ran.append(name), own(*a)][1])
    many = kernel.MANY // 2 // 64
    for tokens in (0, 1, 2, many - 1, many):
        function(*drawn(torch.float32, tokens=tokens, experts=3, k=2, dim=64, hidden=4))
    assert ran == ["reference", "_of_one", "reference", "reference", "_by_expert"]
    ran.clear()
    function(*wide(drawn(torch.float32, tokens=1, experts=3, k=2, dim=64, hidden=4)))
    monkeypatch.setenv("ARCHC_KERNELS", "reference")
    function(*drawn(torch.float32, tokens=1, experts=3, k=2, dim=64, hidden=4))
    assert ran == ["reference", "reference"]


@pytest.mark.parametrize("tokens", [192, 193, 700])
def test_an_expert_of_more_rows_than_caches_hold(tokens: int) -> None:
    takes = drawn(torch.float32, tokens=tokens, experts=3, k=2, dim=48, hidden=33, biased=True)
    close(native(Gate(), takes), mixture(Gate())(*wide(takes)), torch.float32)


def test_a_token_may_choose_an_expert_twice() -> None:
    takes = drawn(torch.float32, tokens=40, experts=4, k=3, dim=20, hidden=12)
    takes[1][:, ::2] = 2
    close(native(Gate(), takes), mixture(Gate())(*wide(takes)), torch.float32)


@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 30), tokens=st.integers(2, 90), at=st.floats(0, 1))
def test_tokens_do_not_depend_on_each_other(seed: int, tokens: int, at: float) -> None:
    """But for rounding: how many are multiplied together decides how sums are made."""
    takes = drawn(torch.float32, seed=seed, tokens=tokens, experts=5, k=2, dim=40, hidden=24)
    cut = round(at * tokens)
    whole = native(Gate(), takes)
    parts = [native(Gate(), [*(x[:, s] for x in takes[:3]), *takes[3:]]) for s in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("tokens", [1, 9, 300])
def test_threads_change_nothing(dtype: torch.dtype, tokens: int) -> None:
    takes = drawn(dtype, tokens=tokens, experts=4, k=2, dim=320, hidden=512, biased=True)
    alone = native(Gate(), takes)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(native(Gate(), takes), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("tokens", [1, 40])
def test_what_is_no_number_stays_so(tokens: int) -> None:
    """In the tokens whose rows hold it, and nowhere else; large numbers are limited."""
    takes = drawn(torch.float32, tokens=tokens + 1, experts=3, k=2, dim=32, hidden=16)
    takes[0][0, tokens, 5] = float("nan")
    made = native(Gate(limit=7.0), takes)
    assert made[0, tokens].isnan().all()
    assert made[0, :tokens].isfinite().all()
    takes[0][0, tokens] = 1e30
    assert native(Gate(limit=7.0), takes).isfinite().all()


def test_what_cannot_be_one_call_is_its_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other dtypes, gradients, transposed weights, autocast, transformed functions, other modes."""
    takes = drawn(torch.float32, tokens=5, experts=4, k=2, dim=12, hidden=8)
    ran: list[int] = []
    function = mixture(Gate())
    reference = function.reference
    function.reference = lambda *a: [ran.append(1), reference(*a)][1]
    function(*takes)
    assert not ran
    function(*wide(takes))
    function(*takes[:3], takes[3].mT.contiguous().mT, takes[4])
    with torch.autocast("cpu"):
        function(*takes)
    with torch.enable_grad():
        x = takes[0].clone().requires_grad_()
        function(x, *takes[1:]).sum().backward()
        assert x.grad is not None
    monkeypatch.setenv("ARCHC_KERNELS", "auto")
    function(*takes)
    assert len(ran) == 5
