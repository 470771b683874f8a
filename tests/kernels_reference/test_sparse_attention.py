"""Attention over a window, entries and a sink against a softmax written out, with its gradient, cost and memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.sparse_attention import sparse_attention, sparse_attention_lse
from kernels.sparse_blocks import LIMIT, Schedule, attention_blocks, attention_pairs, index_blocks, index_pairs
from tests.kernels_reference.clock import Rows, recalled, rows
from tests.kernels_reference.test_groups import group_starts

HEADS, DIM, SCALE = 2, 3, 0.7


def brute(
    q: Tensor,
    history: Tensor,
    sinks: Tensor | None,
    entries: Tensor | None,
    picks: Tensor | None,
    time: Rows,
    window: int,
    every: int,
) -> Tensor:
    """One token and one head at a time: [B, S, H, D], zero where there is padding."""
    out = torch.zeros_like(q)
    for b, j in time.valid():
        t = time.pasts[b] + j
        keys = [history[b, s] for s in range(max(time.start(b, t), t - window + 1), t + 1)]
        if picks is not None and entries is not None:
            keys += [entries[b, i] for i in picks[b, j].tolist() if i >= 0]
        elif entries is not None:
            keys += [entries[b, i] for i in seen(time, b, j, every)]
        k = torch.stack(keys)
        for h in range(HEADS):
            sink = k.new_full((1,), float("-inf")) if sinks is None else sinks[h : h + 1]
            weights = torch.cat([k @ q[b, j, h] * SCALE, sink]).softmax(0)[:-1]
            out[b, j, h] = weights @ k
    return out


def seen(time: Rows, b: int, j: int, every: int) -> list[int]:
    """Ids of the entries that token j of row b sees."""
    t = time.pasts[b] + j
    return [i for i, s in enumerate(group_starts(time, b, t + 1, every)) if s >= time.start(b, t)]


@st.composite
def cases(draw: st.DrawFn):
    time = draw(rows(most=12))
    window, every, spare = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 2))
    far = draw(st.sampled_from(["none", "all", "picked"]))
    r = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=r)

    batch, count = len(time.pasts), (time.past + time.new) // every
    q, history, sinks = normal(batch, time.new, HEADS, DIM), normal(batch, time.past + time.new, DIM), normal(HEADS)
    entries = None if far == "none" else normal(batch, count, DIM)
    picks = None
    if far == "picked":
        k = draw(st.integers(0, 4))
        picks = torch.full((batch, time.new, k), -1)
        for b in range(batch):
            for j in range(time.new):
                own = seen(time, b, j, every) if j < time.counts[b] else []
                few = int(torch.randint(0, k + 1, (), generator=r))
                ids = torch.tensor(own, dtype=torch.int64)[torch.randperm(len(own), generator=r)[:few]]
                picks[b, j, : len(ids)] = ids
    recent = recalled(history, time, keep=window - 1 + spare).nan_to_num(0.25)
    return time, window, every, q, history, recent, sinks, entries, picks


@settings(max_examples=150)
@given(case=cases(), limit=st.sampled_from([1, 100, 1 << 24]))
def test_output_and_gradient_equal_a_softmax_written_out(case: tuple, limit: int) -> None:
    time, window, every, q, history, recent, sinks, entries, picks = case
    # Both paths read the same tensors: the history is the rows of `recent` put back in their slots.
    leaves = [t.clone().requires_grad_() for t in (q, recent, sinks, *([entries] if entries is not None else []))]
    kept = recent.shape[1] - time.new
    slots = torch.zeros_like(history)
    placed = []
    for b in time.batch:
        row = slots[b].clone()
        for r in range(recent.shape[1]):
            slot = time.pasts[b] - kept + r
            if 0 <= slot < history.shape[1]:
                row = torch.cat([row[:slot], leaves[1][b, r : r + 1], row[slot + 1 :]])
        placed.append(row)
    far = leaves[3] if entries is not None else None
    want = brute(leaves[0], torch.stack(placed), leaves[2], far, picks, time, window, every)
    got = sparse_attention(
        leaves[0],
        leaves[1],
        leaves[2],
        time,
        scale=SCALE,
        window=window,
        entries=far,
        picks=picks,
        every=every,
        limit=limit,
    )
    real = torch.zeros(q.shape[:2], dtype=torch.bool)
    for b, j in time.valid():
        real[b, j] = True
    torch.testing.assert_close(got[real], want[real], rtol=0, atol=1e-12)
    assert got.isfinite().all()
    upstream = torch.randn_like(q) * real[..., None, None]
    wanted = torch.autograd.grad((want * upstream).sum(), leaves, allow_unused=True, materialize_grads=True)
    found = torch.autograd.grad((got * upstream).sum(), leaves, allow_unused=True, materialize_grads=True)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=0, atol=1e-11)


@given(case=cases(), limit=st.sampled_from([1, 100, 1 << 24]))
def test_the_mass_is_what_every_softmax_divides_by(case: tuple, limit: int) -> None:
    """Window, entries and sink together; it takes no part in the gradient and changes no result."""
    time, window, every, q, history, recent, sinks, entries, picks = case
    sizes = {"scale": SCALE, "window": window, "entries": entries, "picks": picks, "every": every, "limit": limit}
    q.requires_grad_()
    out, lse = sparse_attention_lse(q, recent, sinks, time, **sizes)
    assert lse is not None
    assert lse.shape == q.shape[:3] and not lse.requires_grad
    plain = sparse_attention(q, recent, sinks, time, **sizes)
    assert torch.equal(out, plain)
    assert torch.equal(*(torch.autograd.grad(o.sum(), q)[0] for o in (out, plain)))
    assert sparse_attention_lse(q, recent, sinks, time, **sizes, wanted=False)[1] is None
    # A value of one everywhere, unseen by the logits, sums up the weights: all but the sink's.
    queries = torch.cat([q.detach(), torch.zeros_like(q[..., :1])], -1)
    ones = [None if t is None else torch.cat([t, torch.ones_like(t[..., :1])], -1) for t in (history, entries)]
    share = brute(queries, ones[0], sinks, ones[1], picks, time, window, every)[..., -1]
    for b, j in time.valid():
        torch.testing.assert_close((sinks - lse[b, j]).exp(), 1 - share[b, j], rtol=1e-10, atol=1e-12)


@given(case=cases())
def test_without_sinks_all_weight_lies_on_keys(case: tuple) -> None:
    time, window, every, q, history, recent, _, entries, picks = case
    q, recent = q.requires_grad_(), torch.ones_like(recent).requires_grad_()
    far = None if entries is None else torch.ones_like(entries)
    sizes = {"scale": SCALE, "window": window, "entries": far, "picks": picks, "every": every}
    got = sparse_attention(q, recent, None, time, **sizes)
    want = brute(q, torch.ones_like(history), None, far, picks, time, window, every)
    for b, j in time.valid():
        torch.testing.assert_close(got[b, j], want[b, j], rtol=0, atol=1e-12)
        torch.testing.assert_close(got[b, j], torch.ones_like(got[b, j]), rtol=0, atol=1e-12)
    for slope in torch.autograd.grad(got.sum(), (q, recent)):
        assert slope.isfinite().all()


@given(case=cases(), limit=st.sampled_from([1, 300, 1 << 24]))
def test_blocks_count_what_runs(case: tuple, limit: int) -> None:
    time, window, every, q, _, recent, sinks, entries, picks = case
    pairs = (
        len(time.pasts)
        * HEADS
        * DIM
        * attention_pairs(
            batch=len(time.pasts),
            heads=HEADS,
            dim=DIM,
            past=time.past,
            new=time.new,
            kept=recent.shape[1] - time.new,
            window=window,
            every=every,
            entries=0 if entries is None else entries.shape[1],
            picks=None if picks is None else picks.shape[-1],
            limit=limit,
        )
    )
    q, recent, sinks = (t.clone().requires_grad_() for t in (q, recent, sinks))
    far = None if entries is None else entries.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = sparse_attention(
            q, recent, sinks, time, scale=SCALE, window=window, entries=far, picks=picks, every=every, limit=limit
        )
        assert counter.get_total_flops() == 4 * pairs
        out.sum().backward()
    assert counter.get_total_flops() == 4 * pairs + 10 * pairs


def test_blocks_stay_within_their_limit_and_waste_little() -> None:
    """DeepSeek-V4-Flash: 64 heads of 512, window 128, 512 picks of 4-token entries, a million tokens of context."""
    size = {
        "batch": 1,
        "heads": 64,
        "dim": 512,
        "past": 1 << 20,
        "kept": 127,
        "window": 128,
        "every": 4,
        "entries": 1 << 18,
    }
    look, gathered, blocks = attention_blocks(**size, new=4096, picks=512)
    assert gathered and blocks[0].start == 0 and blocks[-1].stop == 4096
    for b in blocks:
        n = b.stop - b.start
        assert n * 64 * (look + b.rows + b.entries) <= LIMIT and n * b.entries * 512 <= LIMIT
    assert attention_pairs(**size, new=4096, picks=512) <= 4096 * (128 + 512) * 1.05


def pairs_of(schedule: Schedule) -> int:
    """Query-key pairs of blocks, counted one by one."""
    return sum((b.stop - b.start) * (schedule.look + b.rows + b.entries) for b in schedule.blocks)


@settings(max_examples=300)
@given(
    past=st.integers(0, 90),
    new=st.integers(1, 150),
    keep=st.integers(0, 40),
    window=st.integers(1, 30),
    every=st.integers(1, 9),
    entries=st.integers(0, 40),
    picks=st.one_of(st.none(), st.integers(0, 5)),
    limit=st.sampled_from([1, 50, 3000, 1 << 24]),
)
def test_pairs_are_the_sum_over_blocks(*, keep: int, picks: int | None, **sizes: int) -> None:
    kept = max(keep, sizes["window"] - 1)
    near = {"batch": 2, "heads": 3, "dim": 5, "kept": kept, "picks": picks, **sizes}
    assert attention_pairs(**near) == pairs_of(attention_blocks(**near))
    whole = {**near, "kept": 0}  # without a cache
    assert attention_pairs(**whole) == pairs_of(attention_blocks(**whole))
    index = {n: near[n] for n in ("batch", "heads", "past", "new", "every", "entries", "limit")}
    assert index_pairs(**index) == sum((stop - start) * seen for start, stop, seen in index_blocks(**index))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(dtype: torch.dtype) -> None:
    """Operands are widened first, so that only the result is rounded: half a unit in the last place of float64's."""
    r = torch.Generator().manual_seed(0)
    q, recent, entries = (torch.randn(2, *s, generator=r).to(dtype) for s in ((9, HEADS, DIM), (9, DIM), (3, DIM)))
    sinks = torch.randn(HEADS, generator=r)
    time = Rows(pasts=(0, 0), counts=(9, 9), new=9, cached=False)
    got = sparse_attention(q, recent, sinks, time, scale=SCALE, window=4, entries=entries, every=3)
    want = sparse_attention(
        q.double(), recent.double(), sinks.double(), time, scale=SCALE, window=4, entries=entries.double(), every=3
    )
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps * 0.51, atol=1e-6)
