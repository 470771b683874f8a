"""Softmax attention in C++ against one that stores all scores, in float64."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import attend_on_cpu
from kernels.attend import attend
from kernels.latent_attend import latent_attend
from tests.kernels_reference.clock import Rows, recalled, rows

EPS = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


@pytest.fixture(autouse=True, scope="module")
def compiled() -> Iterator[None]:
    """C++ runs, and is kept between runs of the tests."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        folder = Path(tempfile.gettempdir()) / f"archc-tests-{os.getuid()}"
        patch.setenv("ARCHC_CACHE", os.environ.get("ARCHC_CACHE", str(folder)))
        patch.setenv("ARCHC_KERNELS", "cpp")
        yield


dtypes = st.sampled_from((torch.float32, torch.bfloat16))
seeds = st.integers(0, 1 << 30)
dims = st.integers(1, 80) | st.sampled_from((16, 32, 64))


def expected(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float, sinks: Tensor | None) -> Tensor:
    """Softmax over the keys that each query sees [B, S, T], in float64; 0 where it sees none."""
    q, keys, values = q.double(), keys.double(), values.double()
    times = q.shape[2] // keys.shape[2]
    keys, values = keys.repeat_interleave(times, 2), values.repeat_interleave(times, 2)
    scores = torch.einsum("bshd,bthd->bsht", q, keys) * scale
    scores = scores.masked_fill(~seen[:, :, None], float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None].expand(*scores.shape[:3], 1)], -1)
        values = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
    return torch.einsum("bsht,bthv->bshv", scores.softmax(-1).nan_to_num(0.0), values)


def visible(time: Rows, window: int | None, total: int) -> Tensor:
    """Which slots each new token sees [B, S, total], said pair by pair."""
    seen = torch.zeros(len(time.pasts), time.new, total, dtype=torch.bool)
    for b in time.batch:
        for i in range(time.new):
            own = time.pasts[b] + i
            low = max(time.start(b, i), 0 if window is None else own - window + 1)
            seen[b, i, low : own + 1] = True
    return seen


def close(got: Tensor | None, right: Tensor, time: Rows, factor: float = 1.0) -> None:
    """Of all new tokens, to the digits of its dtype."""
    assert got is not None
    assert got.shape == right.shape
    for b in time.batch:
        one, other = got[b, : time.counts[b]].double(), right[b, : time.counts[b]]
        assert (one - other).abs().max() <= factor * EPS[got.dtype] * max(1.0, other.abs().max())


def normal(r: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=r).to(dtype)


@settings(max_examples=60)
@given(
    dtype=dtypes,
    seed=seeds,
    time=rows(),
    groups=st.integers(1, 3),
    shared=st.integers(1, 5),
    dim=dims,
    width=dims,
    window=st.none() | st.integers(1, 20),
    sink=st.booleans(),
)
def test_any_rows(
    dtype: torch.dtype,
    seed: int,
    time: Rows,
    groups: int,
    shared: int,
    dim: int,
    width: int,
    window: int | None,
    sink: bool,
) -> None:
    r = torch.Generator().manual_seed(seed)
    batch, total, scale = len(time.pasts), time.past + time.new, dim**-0.5
    q = normal(r, dtype, batch, time.new, groups * shared, dim)
    keys, values = normal(r, dtype, batch, total, groups, dim), normal(r, dtype, batch, total, groups, width)
    sinks = torch.randn(groups * shared, generator=r) if sink else None
    right = expected(q, keys, values, visible(time, window, total), scale, sinks)
    if window is not None:  # what no row has is NaN
        keys, values = (recalled(x, time, window - 1) for x in (keys, values))
    close(attend_on_cpu.attend(q, keys, values, time, scale=scale, window=window, sinks=sinks), right, time)
    close(attend(q, keys, values, time, scale=scale, window=window, sinks=sinks), right, time)


@settings(max_examples=30)
@given(
    dtype=dtypes,
    seed=seeds,
    tokens=st.integers(1, 2) | st.integers(1, 300),
    kept=st.integers(0, 300),
    shared=st.integers(1, 9),
    dim=st.sampled_from((1, 16, 40, 64, 96, 129)),
    width=st.sampled_from((1, 16, 40, 64, 80)),
    window=st.none() | st.integers(1, 300),
    threads=st.integers(1, 3),
)
@example(torch.float32, 0, 1, 3000, 4, 64, 64, None, 1)  # many chunks
@example(torch.bfloat16, 0, 1, 3000, 8, 96, 80, 290, 1)  # keys read where they lie
@example(torch.float32, 0, 3, 600, 2, 300, 260, None, 2)  # smaller chunks, several blocks of channels
@example(torch.bfloat16, 0, 1, 700, 128, 40, 36, None, 1)
def test_many_tokens(
    dtype: torch.dtype,
    seed: int,
    tokens: int,
    kept: int,
    shared: int,
    dim: int,
    width: int,
    window: int | None,
    threads: int,
) -> None:
    r = torch.Generator().manual_seed(seed)
    time = Rows(pasts=(kept,), counts=(tokens,), new=tokens, cached=True)
    q, scale = normal(r, dtype, 1, tokens, shared, dim), 2 * dim**-0.5
    keys, values = normal(r, dtype, 1, kept + tokens, 1, dim), normal(r, dtype, 1, kept + tokens, 1, width)
    own = torch.arange(kept, kept + tokens)[:, None] - torch.arange(kept + tokens)
    seen = ((own >= 0) & (own < (window or 1 << 20)))[None]
    right = expected(q, keys, values, seen, scale, None)
    if window is not None:
        keys, values = (recalled(x, time, window - 1) for x in (keys, values))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = attend_on_cpu.attend(q, keys, values, time, scale=scale, window=window)
    finally:
        torch.set_num_threads(before)
    close(got, right, time, 4)


@settings(max_examples=15)
@given(dtype=dtypes, seed=seeds, time=rows(packed=False), heads=st.integers(1, 5), absorb=st.sampled_from((0, None)))
def test_latents(dtype: torch.dtype, seed: int, time: Rows, heads: int, absorb: int | None) -> None:
    """Keys of which all heads share some channels, and latents that are keys and values."""
    r = torch.Generator().manual_seed(seed)
    nope, rope, latent, width = 5, 3, 7, 6
    q = normal(r, dtype, len(time.pasts), time.new, heads, nope + rope)
    entries = normal(r, dtype, len(time.pasts), time.past + time.new, latent + rope)
    weight = normal(r, dtype, heads * (nope + width), latent)
    expanded = torch.einsum("btc,hic->bthi", entries[..., :latent].double(), weight.double().unflatten(0, (heads, -1)))
    shared = entries[:, :, None, latent:].double().expand(-1, -1, heads, -1)
    keys = torch.cat([expanded[..., :nope], shared], -1)
    seen = visible(time, None, entries.shape[1])
    right = expected(q, keys, expanded[..., nope:], seen, 0.2, None)
    close(latent_attend(q, entries, weight, time, nope=nope, scale=0.2, absorb=absorb), right, time, 10)


@given(seed=seeds, size=st.sampled_from((30.0, 1e4)), tokens=st.integers(1, 90))
@settings(max_examples=10)
def test_extreme_scores(seed: int, size: float, tokens: int) -> None:
    """Scores of +-size: one key takes all, or keys of the very same score share; none is lost, and nothing is NaN."""
    r = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (1, tokens, 1, 1), generator=r) * 2.0 - 1.0
    time = Rows(pasts=(0,), counts=(tokens,), new=tokens, cached=False)
    q, values = torch.ones(1, tokens, 2, 1), normal(r, torch.float32, 1, tokens, 1, 8)
    right = expected(q, signs, values, visible(time, None, tokens), size, None)
    close(attend_on_cpu.attend(q, signs, values, time, scale=size), right, time)


def test_nan_goes_where_it_is_seen() -> None:
    """A NaN in a key, a value or a query is in all results that see it, and in no other."""
    r = torch.Generator().manual_seed(0)
    time = Rows(pasts=(0,), counts=(70,), new=70, cached=False)
    for which in range(3):
        given = [normal(r, torch.float32, 1, 70, 1, 24) for _ in range(3)]
        given[which][0, 35, 0, 3] = float("nan")
        out = attend_on_cpu.attend(given[0], given[1], given[2], time, scale=0.2)
        assert out is not None
        wrong = out.isnan().any(-1).flatten()
        assert wrong[35]
        assert not wrong[:30].any()  # rows computed together may share what their last one sees
        assert wrong[36:].all() == (which > 0)
        assert wrong[36:].any() == (which > 0)


@settings(max_examples=10)
@given(seed=seeds, cuts=st.lists(st.integers(1, 40), min_size=1, max_size=4), window=st.none() | st.integers(1, 30))
def test_chunks_are_one(seed: int, cuts: list[int], window: int | None) -> None:
    """Tokens in chunks after others see what they see at once."""
    r = torch.Generator().manual_seed(seed)
    total = sum(cuts)
    q, keys, values = (normal(r, torch.float32, 1, total, heads, 32) for heads in (4, 2, 2))
    whole = Rows(pasts=(0,), counts=(total,), new=total, cached=False)
    at_once = attend_on_cpu.attend(q, keys, values, whole, scale=0.2, window=window)
    assert at_once is not None
    past = 0
    for cut in cuts:
        time = Rows(pasts=(past,), counts=(cut,), new=cut, cached=True)
        seen = [x[:, : past + cut] for x in (keys, values)]
        if window is not None:
            seen = [recalled(x, time, window - 1) for x in seen]
        out = attend_on_cpu.attend(q[:, past : past + cut], *seen, time, scale=0.2, window=window)
        close(out, at_once[:, past : past + cut].double(), time)
        past += cut


def test_strides() -> None:
    """Heads before tokens, channels apart, and caches longer than what they hold."""
    r = torch.Generator().manual_seed(0)
    time = Rows(pasts=(9, 9), counts=(5, 5), new=5, cached=True)
    q = normal(r, torch.float32, 2, 4, 5, 16).transpose(1, 2)
    keys, values = normal(r, torch.float32, 2, 30, 2, 16)[:, :14], normal(r, torch.float32, 2, 30, 24, 2).mT[:, :14]
    right = expected(q, keys, values, visible(time, None, 14), 0.2, None)
    close(attend_on_cpu.attend(q, keys, values, time, scale=0.2), right, time)


def test_not_with_a_gradient() -> None:
    q = torch.randn(1, 3, 2, 4)
    time = Rows(pasts=(0,), counts=(3,), new=3, cached=False)
    assert attend_on_cpu.attend(q, q, q, time, scale=1.0) is not None
    assert attend_on_cpu.attend(q.double(), q.double(), q.double(), time, scale=1.0) is None
    with torch.enable_grad():
        assert attend_on_cpu.attend(q, q, q, time, scale=1.0) is None


@settings(max_examples=15)
@given(
    dtype=dtypes,
    seed=seeds,
    tokens=st.integers(1, 150),
    groups=st.integers(1, 2),
    shared=st.integers(1, 5),
    dim=dims,
    width=dims,
)
@example(torch.float32, 0, 600, 1, 2, 96, 64)
def test_gradient(dtype: torch.dtype, seed: int, tokens: int, groups: int, shared: int, dim: int, width: int) -> None:
    """That of float64 autograd through stored scores."""
    r = torch.Generator().manual_seed(seed)
    time = Rows(pasts=(0, 0), counts=(tokens, tokens), new=tokens, cached=False)
    heads = groups * shared
    given = [normal(r, dtype, 2, tokens, n, size) for n, size in ((heads, dim), (groups, dim), (groups, width))]
    weight, scale = normal(r, dtype, 2, tokens, heads, width), dim**-0.5
    with torch.enable_grad():
        for x in given:
            x.requires_grad_()
        out = attend(given[0], given[1], given[2], time, scale=scale)
        assert type(out.grad_fn).__name__ == "_AttentionBackward"
        got = torch.autograd.grad((out * weight).sum(), given)
        q, keys, values = (x.detach().double().requires_grad_() for x in given)
        right = expected(q, keys, values, visible(time, None, tokens), scale, None)
        others = torch.autograd.grad((right * weight.double()).sum(), (q, keys, values))
    close(out.detach(), right.detach(), time)
    for one, other in zip(got, others, strict=True):
        close(one, other, time, 4)


def test_gradient_of_others_is_pytorchs() -> None:
    """Transforms, casts and windows run what they ran."""
    q = torch.randn(1, 6, 2, 4)
    time = Rows(pasts=(0,), counts=(6,), new=6, cached=False)
    with torch.enable_grad():
        learned = q.clone().requires_grad_()
        assert attend_on_cpu.attend_graded(learned, q, q, time, scale=1.0) is not None
        assert attend_on_cpu.attend_graded(q, q, q, time, scale=1.0) is None
        assert attend_on_cpu.attend_graded(learned.double(), q.double(), q.double(), time, scale=1.0) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert attend_on_cpu.attend_graded(learned, q, q, time, scale=1.0) is None
        packed = Rows(pasts=(0,), counts=(6,), new=6, cached=False, lengths=((2, 4),))
        assert attend_on_cpu.attend_graded(learned, q, q, packed, scale=1.0) is None
        gradient = torch.func.grad(lambda x: attend(x, x, x, time, scale=1.0).square().sum())(q)
        out = attend(learned, learned, learned, time, scale=1.0).square().sum()
        assert torch.allclose(torch.autograd.grad(out, learned)[0], gradient, atol=1e-5)
