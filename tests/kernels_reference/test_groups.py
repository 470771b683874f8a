"""Groups of tokens: which close, who sees them, what they hold, what is pooled of them."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.group_pool import group_pool
from kernels.groups import group_positions, groups, opened, visible
from kernels.shift import shift
from tests.kernels_reference.clock import Rows, recalled, rows

EVERY = st.integers(1, 5)


def group_starts(time: Rows, b: int, stop: int, every: int) -> list[int]:
    """Slots of the first tokens of row b's complete groups among its first ``stop`` slots, in the order they end."""
    return [t - every + 1 for t in range(stop) if (t - time.start(b, t) + 1) % every == 0]


@given(time=rows(), every=EVERY)
def test_opened_lists_the_groups_that_this_call_completes(time: Rows, every: int) -> None:
    found = opened(time, every)
    for b in time.batch:
        end = time.pasts[b] + time.counts[b]
        wanted = [s for s in group_starts(time, b, end, every) if s + every > time.pasts[b]]
        assert found[b].tolist() == wanted + [-1] * (found.shape[1] - len(wanted))


@given(time=rows(), every=EVERY)
def test_group_positions_count_from_the_start_of_the_sequence(time: Rows, every: int) -> None:
    positions, found = group_positions(time, every=every), opened(time, every)
    assert positions.dtype == torch.float64
    for b in time.batch:
        want = [s - time.start(b, s) if s >= 0 else 0 for s in found[b].tolist()]
        assert positions[b].tolist() == want


@given(time=rows(), every=EVERY)
def test_visible_entries_are_the_complete_groups_of_the_same_sequence(time: Rows, every: int) -> None:
    low, high = visible(time, every)
    for b, j in time.valid():
        t = time.pasts[b] + j
        ids = [i for i, s in enumerate(group_starts(time, b, t + 1, every)) if s >= time.start(b, t)]
        first = 0 if low is None else int(low[b, j])
        assert list(range(first, int(high[b, j]))) == ids


@given(time=rows(), every=EVERY, overlap=st.booleans())
def test_groups_hold_their_tokens_and_those_of_the_group_before(time: Rows, every: int, overlap: bool) -> None:
    history = torch.rand(len(time.pasts), time.past + time.new, 2, dtype=torch.float64)
    recent = recalled(history, time, keep=every * (1 + overlap) - 1)
    tokens, exists = groups(recent, time, every=every, overlap=overlap)
    found = opened(time, every)
    assert tokens.shape[:3] == exists.shape == (*found.shape, every * (1 + overlap))
    for b in time.batch:
        for g, first in enumerate(found[b].tolist()):
            wanted = range(first - every if overlap else first, first + every)
            for n, slot in enumerate(wanted):
                real = first >= 0 and slot >= time.start(b, first)
                assert bool(exists[b, g, n]) == real
                if real:
                    assert torch.equal(tokens[b, g, n], history[b, slot])


@given(time=rows(), back=st.integers(0, 6))
def test_shift_reaches_back_inside_a_sequence_only(time: Rows, back: int) -> None:
    history = torch.rand(len(time.pasts), time.past + time.new, 2, dtype=torch.float64)
    found = shift(recalled(history, time, keep=back), time, back, fill=9.0)
    for b, j in time.valid():
        t = time.pasts[b] + j
        wanted = history[b, t - back] if t - back >= time.start(b, t) else torch.full((2,), 9.0, dtype=torch.float64)
        assert torch.equal(found[b, j], wanted)


@given(seed=st.integers(0, 1 << 30), every=EVERY, channels=st.integers(1, 3), overlap=st.booleans())
def test_group_pool_is_a_softmax_mean_of_the_tokens_that_exist(
    seed: int, every: int, channels: int, overlap: bool
) -> None:
    r = torch.Generator().manual_seed(seed)
    wide, n = channels * (1 + overlap), every * (1 + overlap)
    kv, score = (torch.randn(2, 3, n, wide, dtype=torch.float64, generator=r) for _ in range(2))
    bias = torch.randn(every, wide, dtype=torch.float64, generator=r)
    exists = torch.rand(2, 3, n, generator=r) < 0.7
    kv[~exists] = float("nan")
    score[~exists] = float("inf")
    pooled = group_pool(kv, score, exists, bias, overlap=overlap)
    for b in range(2):
        for g in range(3):
            for c in range(channels):
                logits, values = [], []
                for i in range(n):
                    own = i >= every or not overlap
                    place = c + channels if overlap and own else c
                    if exists[b, g, i]:
                        logits.append(math.exp(score[b, g, i, place] + bias[i % every, place]))
                        values.append(kv[b, g, i, place].item())
                want = sum(e * v for e, v in zip(logits, values, strict=True)) / sum(logits) if logits else 0.0
                assert math.isclose(pooled[b, g, c], want, abs_tol=1e-12)


def test_group_pool_has_finite_gradients_where_a_group_is_empty() -> None:
    kv, score = (torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    bias = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    exists = torch.tensor([[[True, False, True, True], [False] * 4]])
    assert torch.autograd.gradcheck(lambda *a: group_pool(a[0], a[1], exists, a[2]), (kv, score, bias))


def test_group_pool_keeps_its_dtype_and_pools_in_float32() -> None:
    kv = torch.tensor([1.0, 2**-8, 2**-8, 2**-8], dtype=torch.bfloat16).view(1, 1, 4, 1)
    pooled = group_pool(kv, torch.zeros_like(kv), torch.ones(1, 1, 4, dtype=torch.bool), torch.zeros(4, 1))
    assert pooled.dtype == torch.bfloat16
    assert pooled.item() == torch.tensor((1 + 3 * 2**-8) / 4).bfloat16().item()
