"""Choosing: the k largest with ties to the lower index, groups of experts, index scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from kernels.group_mask import group_mask
from kernels.index_topk import index_topk
from kernels.sparse_blocks import index_blocks, index_pairs
from kernels.topk_lowest import SORTED_WHOLE, topk_lowest
from tests.kernels_reference.clock import Rows, rows
from tests.kernels_reference.test_groups import group_starts

FEW = st.sampled_from([-math.inf, -2.0, -0.0, 0.0, 1.0, 3.5])


def first_best(values: list[float], k: int) -> list[int]:
    """Indices of the k largest, equal ones in their order (Python's sort is stable)."""
    return sorted(range(len(values)), key=lambda i: -values[i])[:k]


@pytest.mark.parametrize("rows", [1, 60], ids=["sorted", "keyed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@given(values=st.lists(st.lists(FEW, min_size=9, max_size=9), min_size=1, max_size=4), k=st.integers(0, 9))
def test_topk_lowest_breaks_ties_by_index(rows: int, dtype: torch.dtype, values: list[list[float]], k: int) -> None:
    """Few elements are sorted, more are compared by keys that no two share."""
    x = torch.tensor(values * rows, dtype=dtype)
    assert (x.numel() > SORTED_WHOLE) == (rows == 60)
    assert topk_lowest(x, k).tolist() == [first_best(row, k) for row in values] * rows


@given(seed=st.integers(0, 1 << 30), scale=st.sampled_from([1e-38, 1e-3, 1.0, 1e38]))
def test_topk_lowest_orders_every_float(seed: int, scale: float) -> None:
    """Of both signs and any size, subnormal and infinite ones included."""
    x = torch.randn(9, 67, generator=torch.Generator().manual_seed(seed)) * scale
    assert topk_lowest(x, 67).tolist() == [first_best(row, 67) for row in x.tolist()]


def test_topk_lowest_does_not_depend_on_the_length_of_the_row() -> None:
    x = torch.zeros(5000)
    x[17] = 1.0
    assert topk_lowest(x, 4).tolist() == [17, 0, 1, 2] == topk_lowest(x[:40], 4).tolist()


@pytest.mark.parametrize("best", [1, 2])
@given(data=st.data(), groups=st.integers(1, 4), size=st.integers(1, 4))
def test_group_mask_keeps_the_best_groups(data: st.DataObject, groups: int, size: int, best: int) -> None:
    scores = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=groups * size, max_size=groups * size))
    keep = data.draw(st.integers(1, groups))
    worth = [sum(sorted(scores[g * size : (g + 1) * size], reverse=True)[:best]) for g in range(groups)]
    kept = first_best(worth, keep)
    want = [s if e // size in kept else -math.inf for e, s in enumerate(scores)]
    assert group_mask(torch.tensor([scores]), groups=groups, keep=keep, best=best).tolist() == [want]


@given(
    time=rows(),
    every=st.integers(1, 4),
    k=st.integers(1, 6),
    heads=st.integers(1, 3),
    limit=st.sampled_from([1, 40, 1 << 24]),
    seed=st.integers(0, 1 << 30),
)
def test_index_topk_is_the_best_of_what_a_token_sees(
    time: Rows, every: int, k: int, heads: int, limit: int, seed: int
) -> None:
    r = torch.Generator().manual_seed(seed)
    batch, entries = len(time.pasts), (time.past + time.new) // every
    # Small whole numbers: many scores are equal, and zero.
    q, keys, weights = (
        torch.randint(-2, 3, shape, generator=r).double()
        for shape in ((batch, time.new, heads, 3), (batch, entries, 3), (batch, time.new, heads))
    )
    picks = index_topk(q, keys, weights, time, k=k, every=every, limit=limit)
    assert picks.shape == (batch, time.new, min(k, entries))
    for b, j in time.valid():
        t = time.pasts[b] + j
        scores = [-math.inf] * entries
        for i, s in enumerate(group_starts(time, b, t + 1, every)):
            if s >= time.start(b, t):
                products = [max(float(q[b, j, h] @ keys[b, i]), 0.0) for h in range(heads)]
                scores[i] = sum(float(weights[b, j, h]) * p for h, p in enumerate(products))
        want = [i if scores[i] > -math.inf else -1 for i in first_best(scores, min(k, entries))]
        assert picks[b, j].tolist() == want


@settings(max_examples=30)
@given(
    past=st.integers(0, 50), new=st.integers(1, 40), every=st.integers(1, 6), limit=st.sampled_from([1, 300, 1 << 24])
)
def test_index_blocks_count_what_runs(past: int, new: int, every: int, limit: int) -> None:
    time = Rows(pasts=(past, past), counts=(new, new), new=new, cached=True)
    entries, heads, dim = (past + new) // every, 3, 4
    q, keys, weights = torch.rand(2, new, heads, dim), torch.rand(2, entries, dim), torch.rand(2, new, heads)
    with FlopCounterMode(display=False) as counter:
        index_topk(q, keys, weights, time, k=2, every=every, limit=limit)
    sizes = {"batch": 2, "heads": heads, "past": past, "new": new, "every": every, "entries": entries, "limit": limit}
    blocks = index_blocks(**sizes)
    assert counter.get_total_flops() == 2 * 2 * heads * (dim + 1) * index_pairs(**sizes)
    assert [b[0] for b in blocks[1:]] == [b[1] for b in blocks[:-1]] and blocks[-1][1] == new
    assert all((stop - start) * heads * seen * 2 <= limit for start, stop, seen in blocks if stop - start > 1)
