"""The loss of an indexer against the equation written out, with its gradient, its FLOPs and what it keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.index_divergence import index_divergence
from kernels.sparse_attention import sparse_attention_lse
from kernels.sparse_blocks import divergence_blocks, divergence_pairs
from tests.kernels_reference.clock import Rows
from tests.kernels_reference.test_groups import group_starts
from tests.kernels_reference.test_sparse_attention import DIM, HEADS, SCALE
from tests.kernels_reference.test_sparse_attention import cases as attention_cases
from tests.oracles import index_loss

INDEX_HEADS, INDEX_DIM = 3, 2
LIMITS = st.sampled_from([1, 100, 1 << 24])


class Case:
    """Operands of attention and of the scores of an indexer, in float64."""

    def __init__(self, attention: tuple[Any, ...], seed: int) -> None:
        self.time, self.window, self.every, self.q, self.history, self.recent, self.sinks, far, self.picks = attention
        r = torch.Generator().manual_seed(seed)
        (batch, new), count = self.q.shape[:2], (self.time.past + self.time.new) // self.every

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=r)

        self.entries = normal(batch, count, DIM) if far is None else far
        self.index = (
            normal(batch, new, INDEX_HEADS, INDEX_DIM),
            normal(batch, count, INDEX_DIM),
            normal(batch, new, INDEX_HEADS),
        )

    def lse(self) -> Tensor:
        sizes = {"scale": SCALE, "window": self.window, "every": self.every}
        _, lse = sparse_attention_lse(
            self.q, self.recent, self.sinks, self.time, entries=self.entries, picks=self.picks, **sizes
        )
        assert lse is not None
        return lse

    def loss(self, *index: Tensor, limit: int = 1 << 24) -> Tensor:
        return index_divergence(
            *(index or self.index),
            self.q,
            self.entries,
            self.lse(),
            self.time,
            scale=SCALE,
            picks=self.picks,
            every=self.every,
            limit=limit,
        )

    def attended(self, b: int, j: int) -> list[int]:
        """The entries that a token attends to."""
        t = self.time.pasts[b] + j
        if self.picks is not None:
            return [i for i in self.picks[b, j].tolist() if i >= 0]
        starts = group_starts(self.time, b, t + 1, self.every)
        return [i for i, s in enumerate(starts) if s >= self.time.start(b, t)]

    def written_out(self) -> float:
        """One query after the other."""
        parts = []
        for b, j in self.time.valid():
            t, ids = self.time.pasts[b] + j, self.attended(b, j)
            if not ids:
                continue
            near = self.history[b, max(self.time.start(b, t), t - self.window + 1) : t + 1]
            p = index_loss.attention(
                *(x.numpy() for x in (self.q[b, j], near, self.entries[b, ids], self.sinks)), SCALE
            )
            queries, keys, weights = self.index
            i = index_loss.scores(queries[b, j].numpy(), keys[b, ids].numpy(), weights[b, j].numpy())
            parts.append(index_loss.divergence(p, i))
        return math.fsum(parts) / max(1, len(parts))


cases = st.builds(Case, attention_cases(), st.integers(0, 1 << 30))


@settings(max_examples=80)
@given(case=cases, limit=LIMITS)
def test_it_is_the_equation_written_out(case: Case, limit: int) -> None:
    loss = case.loss(limit=limit)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(case.written_out(), rel=1e-10, abs=1e-12)


@settings(max_examples=25)
@given(case=cases, limit=LIMITS)
def test_the_gradient_is_that_of_the_scores_alone(case: Case, limit: int) -> None:
    index = [t.clone().requires_grad_() for t in case.index]
    case.q.requires_grad_(), case.entries.requires_grad_(), case.sinks.requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: case.loss(*t, limit=limit), index, eps=1e-7, atol=1e-6)
    case.loss(*index, limit=limit).backward()
    assert case.q.grad is None and case.entries.grad is None and case.sinks.grad is None
    assert all(t.grad is not None for t in index)
    for t in index:  # where only some learn, those get what they got
        (one,) = torch.autograd.grad(case.loss(*(u if u is t else u.detach() for u in index), limit=limit), t)
        assert torch.equal(one, t.grad)


@given(case=cases)
def test_padding_is_never_read(case: Case) -> None:
    """Neither the value nor a gradient depends on what padding holds, and padding gets none."""
    padding = torch.ones(case.q.shape[:2], dtype=torch.bool)
    for b, j in case.time.valid():
        padding[b, j] = False
    results = []
    for filling in (0.5, 1e6):
        case.q = case.q.detach().masked_fill(padding[..., None, None], filling)
        index = [t.clone() for t in case.index]
        for t, n in ((index[0], 2), (index[2], 1)):
            t.masked_fill_(padding.view(*padding.shape, *[1] * n), filling)
        index = [t.requires_grad_() for t in index]
        loss = case.loss(*index)
        results.append((loss, *torch.autograd.grad(loss, index)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not results[0][1][padding].any() and not results[0][3][padding].any()


def plain(every: int, new: int, *, picks: int | None, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """Two whole rows without a cache; every query picks the first entries that it sees."""
    r = torch.Generator().manual_seed(seed)
    time = Rows(pasts=(0, 0), counts=(new, new), new=new, cached=False)
    q, recent, sinks = (
        torch.randn(*s, dtype=torch.float64, generator=r) for s in ((2, new, HEADS, DIM), (2, new, DIM), (HEADS,))
    )
    chosen = None
    if picks is not None:
        ids = torch.arange(picks).expand(2, new, -1)
        chosen = ids.masked_fill(ids >= ((torch.arange(new) + 1) // every)[:, None], -1)
    case = Case((time, 3, every, q, recent, recent, sinks, None, chosen), seed)
    for name in ("q", "recent", "entries", "sinks"):
        setattr(case, name, getattr(case, name).to(dtype))
    case.index = tuple(t.to(dtype) for t in case.index)
    return case


@pytest.mark.parametrize("picks", [None, 1, 2, 3])
@pytest.mark.parametrize("limit", [300, 1 << 24])
def test_it_runs_the_products_that_the_plan_counts(picks: int | None, limit: int) -> None:
    """Attention's logits again and the scores; where it learns, the two products of their gradient too: in the
    forward. Few picks are gathered, else they are looked up among all entries.
    """
    case = plain(4, 23, picks=picks)
    sizes = {"batch": 2, "heads": max(HEADS, INDEX_HEADS), "past": 0, "new": 23, "every": 4, "entries": 5}
    pairs = 2 * divergence_pairs(**sizes, picks=picks, limit=limit)
    gathered, blocks = divergence_blocks(**sizes, width=DIM, picks=picks, limit=limit)
    assert gathered == (picks in {1, 2})
    assert pairs == 2 * sum((stop - start) * columns for start, stop, columns in blocks)
    assert gathered or len(blocks) == (1 if limit > 300 else 3)
    lse = case.lse()
    case.lse = lambda: lse
    forward = 2 * pairs * (HEADS * DIM + INDEX_HEADS * INDEX_DIM)
    with FlopCounterMode(display=False) as counter:
        case.loss(limit=limit)
    assert counter.get_total_flops() == forward
    index = [t.requires_grad_() for t in case.index]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        case.loss(*index, limit=limit)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        case.loss(*index, limit=limit).backward()
    assert counter.get_total_flops() == forward + 4 * pairs * INDEX_HEADS * INDEX_DIM


@pytest.mark.parametrize("picks", [None, 3])
def test_it_keeps_no_more_than_its_index_operands(picks: int | None) -> None:
    case = plain(2, 64, picks=picks)
    kept: list[Tensor] = []
    index = [t.requires_grad_() for t in case.index]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        case.loss(*index)
    assert sum(t.numel() for t in kept) == sum(t.numel() for t in index) + 1


def test_no_query_that_attends_to_an_entry_is_no_loss_and_no_gradient() -> None:
    case = plain(9, 5, picks=None)
    index = [t.requires_grad_() for t in case.index]
    loss = case.loss(*index)
    assert loss.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, index))


def test_a_sink_that_takes_nearly_all_leaves_the_rest_its_shares() -> None:
    """Weights that are too small for a float32 still compare to each other."""
    wide = plain(2, 11, picks=None)
    wide.sinks += 200
    narrow = plain(2, 11, picks=None, dtype=torch.float32)
    narrow.sinks += 200
    assert wide.written_out() > 0.1
    assert narrow.loss().item() == pytest.approx(wide.written_out(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("picks", [None, 3])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, picks: int | None) -> None:
    case, wide = (plain(2, 17, picks=picks, dtype=dtype) for _ in range(2))
    for name in ("q", "recent", "entries", "sinks"):
        setattr(wide, name, getattr(wide, name).double())
    index = [t.requires_grad_() for t in case.index]
    wider = [t.detach().double().requires_grad_() for t in case.index]
    got, want = case.loss(*index), wide.loss(*wider)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    for g, w in zip(torch.autograd.grad(got, index), torch.autograd.grad(want, wider), strict=True):
        assert g.dtype == dtype
        torch.testing.assert_close(g.double(), w, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
