"""Ops in C++ against their references in float64."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import on_cpu
from kernels.einsum import BY_GROUP, einsum
from kernels.expert_rows import combine, dispatch
from kernels.grouped_linear import grouped_linear
from kernels.index_topk import index_topk
from kernels.rms_norm import rms_norm
from kernels.rotate import rotate
from kernels.sparse_attention import sparse_attention
from kernels.state import Ring, recall
from kernels.swiglu import swiglu
from kernels.topk_lowest import topk_lowest
from tests.kernels_reference.clock import Rows

DTYPES = (torch.float32, torch.bfloat16)
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
"""Of the largest number: bfloat16 rounds to 8 bits."""


@pytest.fixture(autouse=True, scope="module")
def compiled() -> Iterator[None]:
    """C++ runs, and is kept between runs of the tests."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        folder = Path(tempfile.gettempdir()) / f"archc-tests-{os.getuid()}"
        patch.setenv("ARCHC_CACHE", os.environ.get("ARCHC_CACHE", str(folder)))
        patch.setenv("ARCHC_KERNELS", "cpp")
        yield


dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 1 << 30)
sizes = st.integers(1, 40)


def close(got: Tensor | None, expected: Tensor) -> None:
    """`got` is `expected`, of float64, to the digits of its dtype."""
    assert got is not None
    assert got.shape == expected.shape
    error = (got.double() - expected).abs().max() if got.numel() else torch.zeros(())
    assert error <= CLOSE[got.dtype] * max(1.0, expected.abs().max() if got.numel() else 1.0)


def normal(r: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=r).to(dtype)


@settings(max_examples=20)
@given(dtype=dtypes, seed=seeds, rows=st.integers(0, 5), dim=sizes, weighed=st.booleans())
def test_rms_norm(dtype: torch.dtype, seed: int, rows: int, dim: int, weighed: bool) -> None:
    r = torch.Generator().manual_seed(seed)
    x, weight = normal(r, dtype, 2, rows, dim), normal(r, dtype, dim) if weighed else None
    expected = rms_norm(x.double(), None if weight is None else weight.double(), eps=1e-6)
    close(on_cpu.rms_norm(x, weight, 1e-6), expected)
    assert torch.equal(rms_norm(x, weight, eps=1e-6), on_cpu.rms_norm(x, weight, 1e-6))  # pyright: ignore[reportArgumentType]


@settings(max_examples=30)
@given(
    dtype=dtypes,
    seed=seeds,
    heads=st.integers(0, 4),
    pairs=st.sampled_from(["half", "interleaved"]),
    end=st.sampled_from(["first", "last"]),
    inverse=st.booleans(),
    turned=st.integers(1, 9),
    passed=st.integers(0, 9),
)
def test_rotate(dtype: torch.dtype, seed: int, heads: int, turned: int, passed: int, **how) -> None:
    r = torch.Generator().manual_seed(seed)
    x = normal(r, dtype, 2, 3, *([heads] if heads else []), 2 * turned + passed)
    angles = normal(r, torch.float32, 2, 3, turned, 2)
    close(rotate(x, angles, **how), rotate(x.double(), angles.double(), **how))


@settings(max_examples=20)
@given(
    dtype=dtypes,
    seed=seeds,
    rows=st.integers(0, 5),
    dim=sizes,
    limit=st.sampled_from([None, 0.5, 10.0]),
    alpha=st.sampled_from([1.0, 1.702]),
    shift=st.sampled_from([0.0, 1.0]),
    halves=st.booleans(),
)
def test_swiglu(dtype: torch.dtype, seed: int, rows: int, dim: int, halves: bool, **how) -> None:
    both = normal(torch.Generator().manual_seed(seed), dtype, rows, 2 * dim) * 3
    gate, up = both.chunk(2, -1) if halves else (both[:, :dim].contiguous(), both[:, dim:].contiguous())
    close(swiglu(gate, up, **how), swiglu(gate.double(), up.double(), **how))


def test_swiglu_of_large_numbers() -> None:
    gate = torch.tensor([[1e30, -1e30, float("nan"), float("-inf")]])
    out = swiglu(gate, torch.ones(1, 4))
    assert out[0, :2].tolist() == [pytest.approx(1e30), 0.0]
    assert out[0, 2].isnan()


@settings(max_examples=30)
@given(
    dtype=dtypes,
    seed=seeds,
    tokens=st.integers(1, 9),
    experts=st.integers(1, 7),
    k=st.integers(1, 4),
    dim=sizes,
    hidden=sizes,
    biased=st.booleans(),
)
def test_experts(
    dtype: torch.dtype, seed: int, tokens: int, experts: int, k: int, dim: int, hidden: int, biased: bool
) -> None:
    """Tokens to their experts, through a matrix of each, and back."""
    r = torch.Generator().manual_seed(seed)
    k = min(k, experts)
    x, weights = normal(r, dtype, 1, tokens, dim), torch.rand(1, tokens, k, generator=r)
    ids = torch.rand(1, tokens, experts, generator=r).argsort(-1)[..., :k]
    matrix, bias = normal(r, dtype, experts, hidden, dim), normal(r, dtype, experts, hidden) if biased else None

    rows, order, ends = dispatch(x, ids, experts=experts)
    wide_rows, expected_order, expected_ends = dispatch(x.double(), ids, experts=experts)
    assert torch.equal(order, expected_order)
    assert torch.equal(ends, expected_ends)
    assert torch.equal(rows.double(), wide_rows)

    wide = grouped_linear(wide_rows, matrix.double(), ends, None if bias is None else bias.double())
    made = grouped_linear(rows, matrix, ends, bias)
    close(made, wide)
    if rows.shape[0] <= on_cpu.FEW:
        assert on_cpu.grouped(rows, matrix, ends, bias) is not None
    close(combine(made, weights, order), combine(made.double(), weights.double(), order))


@settings(max_examples=40)
@given(
    dtype=dtypes,
    seed=seeds,
    batch=st.integers(1, 3),
    past=st.integers(0, 30),
    window=st.integers(1, 9),
    heads=st.integers(1, 5),
    dim=sizes,
    every=st.integers(1, 4),
    far=st.sampled_from(["none", "all", "picked"]),
    sink=st.booleans(),
)
def test_attention_and_picks(
    dtype: torch.dtype,
    seed: int,
    batch: int,
    past: int,
    window: int,
    heads: int,
    dim: int,
    every: int,
    far: str,
    sink: bool,
) -> None:
    """One token after others: what it picks, and what it reads; what rows before the first token hold is not seen."""
    r = torch.Generator().manual_seed(seed)
    time = Rows(pasts=(past,) * batch, counts=(1,) * batch, new=1, cached=True)
    q, recent = normal(r, dtype, batch, 1, heads, dim), normal(r, dtype, batch, window, dim)
    recent[:, : max(0, window - 1 - past)] = 100.0
    sinks = torch.randn(heads, generator=r) if sink else None
    entries = picks = None
    count = (past + 1) // every
    if far != "none" and count:
        table = normal(r, dtype, batch, count + 2, dim)  # of which a row has so many
        entries = table[:, :count]
        if far == "picked":
            weights = normal(r, dtype, batch, 1, heads)
            picks = index_topk(q, entries, weights, time, k=4, every=every)
            scores = torch.einsum(
                "bsh,bshe->bse", weights.double(), torch.einsum("bshd,bed->bshe", q.double(), entries.double()).relu()
            )
            best = scores.topk(picks.shape[-1], -1).values
            slack = CLOSE[torch.float32] * max(1.0, float(scores.abs().max()))
            assert torch.allclose(scores.gather(-1, picks), best, rtol=0, atol=slack)
            picks[:, :, -1] = -1
    wide = [None if x is None else x.double() for x in (q, recent, sinks, entries)]
    how = {"scale": dim**-0.5, "window": window, "picks": picks, "every": every}
    got = sparse_attention(q, recent, sinks, time, entries=entries, **how)
    close(got, sparse_attention(wide[0], wide[1], wide[2], time, entries=wide[3], **how))  # pyright: ignore[reportArgumentType]


@settings(max_examples=40)
@given(seed=seeds, rows=st.integers(1, 4), count=st.integers(1, 700), k=st.integers(1, 9), steps=st.integers(1, 50))
def test_topk(seed: int, rows: int, count: int, k: int, steps: int) -> None:
    """The order of a stable sort, with many ties, infinities and zeros of both signs."""
    x = torch.randint(-steps, steps, (2, rows, count), generator=torch.Generator().manual_seed(seed)) / 3
    x = x.where(x.abs() > 0, -x).masked_fill(x == steps / 3, float("-inf"))
    expected = x.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    assert torch.equal(topk_lowest(x, min(k, count)), expected)


@settings(max_examples=20)
@given(dtype=dtypes, seed=seeds, tokens=st.integers(1, 6), groups=st.integers(1, 3), width=sizes, out=sizes)
def test_each_group_has_a_matrix_of_its_own(
    dtype: torch.dtype, seed: int, tokens: int, groups: int, width: int, out: int
) -> None:
    r = torch.Generator().manual_seed(seed)
    x, matrices = normal(r, dtype, 1, tokens, groups, width), normal(r, dtype, groups, out, width)
    close(einsum(BY_GROUP, x, matrices), torch.einsum(BY_GROUP, x.double(), matrices.double()))
    assert (on_cpu.by_group(x, matrices) is None) == (tokens > on_cpu.FEW_TOKENS)


@settings(max_examples=30)
@given(
    dtype=dtypes,
    seed=seeds,
    batch=st.integers(1, 3),
    keep=st.integers(0, 6),
    rewind=st.integers(0, 3),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_recall(dtype: torch.dtype, seed: int, batch: int, keep: int, rewind: int, chunks: list[int]) -> None:
    """A ring gives the very tokens that were put in, chunk after chunk."""
    r = torch.Generator().manual_seed(seed)
    ring = Ring(keep=keep, shape=(2, 3)).allocate(batch, 64, rewind, dtype, torch.device("cpu"))
    history = normal(r, dtype, batch, sum(chunks), 2, 3)
    for past, new in zip(accumulate([0, *chunks]), chunks, strict=False):
        time = Rows(pasts=(past,) * batch, counts=(new,) * batch, new=new, cached=True)
        before = ring.data.clone()
        got = recall(history[:, past : past + new], ring, time)
        seen = min(keep, past)
        assert torch.equal(got[:, keep - seen :], history[:, past - seen : past + new])
        after, ring.data[:] = ring.data.clone(), before
        assert on_cpu.recall(history[:, past : past + new], ring.data, keep, time) is not None
        assert torch.equal(ring.data, after)


def test_equal_scores_go_to_the_lower_entry() -> None:
    """Zeros of either sign are equal, and so are all others of the same bits."""
    time = Rows(pasts=(5,), counts=(1,), new=1, cached=True)
    q, weights = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1)
    keys = torch.tensor([-1.0, -0.0, 2.0, 0.0, 2.0, -3.0]).view(1, 6, 1)
    assert on_cpu.pick(q, keys, weights, time, k=6, every=1) is not None
    assert index_topk(q, keys, weights, time, k=6).tolist() == [[[2, 4, 0, 1, 3, 5]]]
    assert index_topk(q, keys, -weights, time, k=6).tolist() == [[[0, 1, 3, 5, 2, 4]]]


def test_nothing_runs_that_wants_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 4)
    with torch.enable_grad():
        assert on_cpu.rms_norm(x, None, 1e-6) is None
    assert on_cpu.rms_norm(x.double(), None, 1e-6) is None
    assert on_cpu.rms_norm(x.to("meta"), None, 1e-6) is None
    assert torch.vmap(lambda row: rms_norm(row, eps=1e-6))(x).shape == x.shape
    monkeypatch.setenv("ARCHC_KERNELS", "auto")
    assert on_cpu.rms_norm(x, None, 1e-6) is None
