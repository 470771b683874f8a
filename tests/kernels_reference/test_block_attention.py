"""Attention over entries of overlapping blocks, the choice of blocks that follows, and attention over these, against
sums written out, with gradients and FLOPs.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.block_attention import block_attention
from kernels.block_choice import block_scores
from kernels.compressed_attention import compressed_attention
from kernels.groups import opened
from kernels.sparse_blocks import GATHERED, index_blocks, picked_blocks
from kernels.token_blocks import token_blocks
from tests.kernels_reference.clock import Rows, recalled, rows
from tests.kernels_reference.test_groups import group_starts

GROUPS, EACH, DIM, WIDE, SCALE = 2, 2, 3, 4, 0.7
HEADS = GROUPS * EACH
LIMITS = st.sampled_from([1, 60, 1 << 24])


def normal(r: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=r)


def attended(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One head of one query: what it reads, zero where there is nothing to read, and the weights."""
    if not keys:
        return q.new_zeros(WIDE), q.new_zeros(0)
    weights = (torch.stack(keys) @ q * SCALE).softmax(0)
    return weights @ torch.stack(values), weights


# --- blocks of tokens ----------------------------------------------------------------------------
@given(time=rows(), every=st.integers(1, 4), parts=st.integers(1, 3))
def test_blocks_are_the_last_tokens_up_to_the_end_of_a_group(time: Rows, every: int, parts: int) -> None:
    size = every * parts
    history = torch.rand(len(time.pasts), time.past + time.new, 2, 3, dtype=torch.float64)
    recent = recalled(history, time, keep=size - 1).nan_to_num(0.25).requires_grad_()
    found, first = token_blocks(recent, time, every=every, size=size), opened(time, every)
    assert found.shape == (*first.shape, 2, size * 3)
    for b in time.batch:
        for g, slot in enumerate(first[b].tolist()):
            begin = slot + every - size
            if slot >= 0 and begin >= time.start(b, slot):
                want = history[b, begin : begin + size].transpose(0, 1)
                assert torch.equal(found[b, g].view(2, size, 3).detach(), want)
    if found.numel():
        (slope,) = torch.autograd.grad(found.sum(), recent)
        assert slope.isfinite().all()


# --- entries, and what they choose ---------------------------------------------------------------
def scored(p: dict[int, float], block: int, pieces: int, parts: int, mapping: str) -> float:
    """Equation 9 as a double sum, over weights by entry from 0."""
    total = 0.0
    for m in range(pieces):
        for n in range(parts):
            entry = pieces * block + {"overlap": m - n, "plus": m + n, "minus": -m - n}[mapping]
            total += p.get(entry, 0.0)
    return total


@given(
    pieces=st.integers(1, 4),
    parts=st.integers(1, 4),
    blocks=st.integers(1, 5),
    mapping=st.sampled_from(["overlap", "plus", "minus"]),
    data=st.data(),
)
def test_scores_are_the_double_sum_of_the_equation(
    pieces: int, parts: int, blocks: int, mapping: str, data: st.DataObject
) -> None:
    real = data.draw(st.integers(0, max(0, pieces * blocks - parts + 1)))
    p = {i: float(data.draw(st.integers(0, 9))) for i in range(real)}
    mass = torch.tensor([0.0] * (parts - 1) + list(p.values()), dtype=torch.float64)[: pieces * blocks]
    found = block_scores(mass, blocks=blocks, every=2, size=2 * parts, select=2 * pieces, mapping=mapping)  # type: ignore[arg-type]
    assert found.tolist() == [scored(p, j, pieces, parts, mapping) for j in range(blocks)]


def test_an_overlap_counts_the_pieces_that_coincide() -> None:
    """Entries of 32 tokens every 16, blocks of 64 (Native Sparse Attention's own): block 1, tokens 64 to 127, lies over
    entries 3 (tokens 48 to 79, one piece of 16) to 7 (112 to 143); those inside count twice.
    """
    sizes = {"blocks": 3, "every": 16, "size": 32, "select": 64}
    one = torch.eye(12, dtype=torch.float64)
    found = block_scores(one, **sizes)[1:, 1]  # entry i stands in column i + 1
    assert found.tolist() == [0, 0, 0, 1, 2, 2, 2, 1, 0, 0, 0]


@st.composite
def compressed(draw: st.DrawFn):
    time = draw(rows(most=14))
    every, parts = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    pieces = draw(st.integers(parts, 4))
    initial, local = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    sizes = {
        "every": every,
        "size": every * parts,
        "select": every * pieces,
        "initial": initial,
        "local": local,
        "count": initial + local + draw(st.integers(0, 2)),
        "mapping": draw(st.sampled_from(["overlap", "plus", "minus"])),
    }
    r = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    batch, entries = len(time.pasts), (time.past + time.new) // every
    q = normal(r, batch, time.new, HEADS, DIM)
    return time, sizes, q, normal(r, batch, entries, GROUPS, DIM), normal(r, batch, entries, GROUPS, WIDE)


def entries_of(time: Rows, b: int, t: int, every: int, size: int) -> list[int]:
    """Columns of the entries whose blocks lie in token t's sequence and end with it or before, in order."""
    starts = enumerate(group_starts(time, b, t + 1, every))
    return [i for i, s in starts if s + every - size >= time.start(b, t)]


@settings(max_examples=100)
@given(case=compressed(), limit=LIMITS)
def test_compressed_attention_and_its_choice(case: tuple, limit: int) -> None:
    time, sizes, q, keys, values = case
    leaves = [t.clone().requires_grad_() for t in (q, keys, values)]
    out, picks = compressed_attention(*leaves, time, scale=SCALE, **sizes, limit=limit)
    blocks = -(-(time.past + time.new) // sizes["select"])
    assert picks.shape == (*q.shape[:2], GROUPS, min(sizes["count"], blocks))
    want = torch.zeros_like(out)
    pieces, parts = sizes["select"] // sizes["every"], sizes["size"] // sizes["every"]
    for b, j in time.valid():
        t = time.pasts[b] + j
        ids = entries_of(time, b, t, sizes["every"], sizes["size"])
        own = (t - time.start(b, t)) // sizes["select"]
        for g in range(GROUPS):
            mass: dict[int, float] = {}
            for h in range(g * EACH, (g + 1) * EACH):
                k, v = ([x[b, i, g] for i in ids] for x in leaves[1:])
                y, weights = attended(leaves[0][b, j, h], k, v)
                want[b, j, h] = y
                for i, weight in enumerate(weights.tolist()):
                    mass[i] = mass.get(i, 0.0) + weight
            forced = {n for n in range(own + 1) if n < sizes["initial"] or n > own - sizes["local"]}
            others = [n for n in range(own + 1) if n not in forced]
            score = {n: scored(mass, n, pieces, parts, sizes["mapping"]) for n in others}
            ranked = sorted(others, key=lambda n: (-round(score[n], 9), n))
            room = sizes["count"] - len(forced)
            if 0 < room < len(ranked):  # the order of equal scores is that of exact zeros only
                last, first = score[ranked[room - 1]], score[ranked[room]]
                assume(last == first == 0 or last - first > 1e-9)
            found = picks[b, j, g].tolist()
            chosen = [n for n in found if n >= 0]
            assert set(chosen) == forced | set(ranked[: max(0, room)])
            assert len(set(chosen)) == len(chosen)
            assert found == chosen + [-1] * (len(found) - len(chosen))
    real = torch.zeros(q.shape[:2], dtype=torch.bool)
    for b, j in time.valid():
        real[b, j] = True
    torch.testing.assert_close(out[real], want[real], rtol=0, atol=1e-12)
    assert out.isfinite().all()
    upstream = torch.randn_like(out) * real[..., None, None]
    found, wanted = (
        torch.autograd.grad((y * upstream).sum(), leaves, allow_unused=True, materialize_grads=True)
        if y.requires_grad
        else [torch.zeros_like(x) for x in leaves]
        for y in (out, want)
    )
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=0, atol=1e-11)
    with torch.no_grad():
        plain = compressed_attention(*leaves, time, scale=SCALE, **sizes, limit=limit)
    assert torch.equal(plain[0], out)
    assert torch.equal(plain[1], picks)


@settings(max_examples=40)
@given(case=compressed(), limit=LIMITS)
def test_compressed_attention_counts_what_runs(case: tuple, limit: int) -> None:
    time, sizes, *operands = case
    batch, new, heads, _ = operands[0].shape
    entries, every = operands[1].shape[1], sizes["every"]
    blocks = index_blocks(batch=batch, heads=heads, past=time.past, new=new, every=every, entries=entries, limit=limit)
    pairs = 2 * batch * HEADS * sum((stop - start) * seen for start, stop, seen in blocks)
    leaves = [t.clone().requires_grad_() for t in operands]
    with FlopCounterMode(display=False) as counter:
        out, _ = compressed_attention(*leaves, time, scale=SCALE, **sizes, limit=limit)
        assert counter.get_total_flops() == pairs * (DIM + WIDE)
        out.sum().backward()
    assert counter.get_total_flops() == pairs * (DIM + WIDE) + pairs * (3 * DIM + 2 * WIDE)


# --- chosen blocks -------------------------------------------------------------------------------
@st.composite
def chosen(draw: st.DrawFn):
    time = draw(rows(most=14))
    size, many = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    r = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    batch, total = len(time.pasts), time.past + time.new
    picks = torch.full((batch, time.new, GROUPS, many), -1)
    for b, j in time.valid():
        t = time.pasts[b] + j
        own = (t - time.start(b, t)) // size
        for g in range(GROUPS):
            ids = torch.randperm(own + 1, generator=r)[: int(torch.randint(0, many + 1, (), generator=r))]
            picks[b, j, g, : len(ids)] = ids
    q = normal(r, batch, time.new, HEADS, DIM)
    return time, size, picks, q, normal(r, batch, total, GROUPS, DIM), normal(r, batch, total, GROUPS, WIDE)


@settings(max_examples=100)
@given(case=chosen(), limit=LIMITS)
def test_attention_over_chosen_blocks(case: tuple, limit: int) -> None:
    """Tokens of the blocks up to the query's own, blocks counted from the start of its sequence; nothing gives 0."""
    time, size, picks, *operands = case
    leaves = [t.clone().requires_grad_() for t in operands]
    q, keys, values = leaves
    out = block_attention(q, keys, values, picks, time, scale=SCALE, size=size, limit=limit)
    want = torch.zeros_like(out)
    for b, j in time.valid():
        t = time.pasts[b] + j
        begin = time.start(b, t)
        for g in range(GROUPS):
            ids = [
                s
                for n in picks[b, j, g].tolist()
                if n >= 0
                for s in range(begin + n * size, begin + (n + 1) * size)
                if s <= t
            ]
            for h in range(g * EACH, (g + 1) * EACH):
                k, v = ([x[b, i, g] for i in ids] for x in (keys, values))
                want[b, j, h] = attended(q[b, j, h], k, v)[0]
    real = torch.zeros(q.shape[:2], dtype=torch.bool)
    for b, j in time.valid():
        real[b, j] = True
    torch.testing.assert_close(out[real], want[real], rtol=0, atol=1e-12)
    assert out.isfinite().all()
    upstream = torch.randn_like(out) * real[..., None, None]
    found = torch.autograd.grad((out * upstream).sum(), leaves)
    wanted = (
        torch.autograd.grad((want * upstream).sum(), leaves, allow_unused=True, materialize_grads=True)
        if want.requires_grad
        else [torch.zeros_like(x) for x in leaves]
    )
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=0, atol=1e-11)
    with torch.no_grad():
        assert torch.equal(block_attention(*leaves, picks, time, scale=SCALE, size=size, limit=limit), out)


@settings(max_examples=40)
@given(case=chosen(), limit=LIMITS)
def test_attention_over_chosen_blocks_counts_what_runs(case: tuple, limit: int) -> None:
    time, size, picks, *operands = case
    pairs = 2 * len(time.pasts) * time.new * HEADS * picks.shape[-1] * size
    leaves = [t.clone().requires_grad_() for t in operands]
    with FlopCounterMode(display=False) as counter:
        out = block_attention(*leaves, picks, time, scale=SCALE, size=size, limit=limit)
        assert counter.get_total_flops() == pairs * (DIM + WIDE)
        out.sum().backward()
    assert counter.get_total_flops() == pairs * (DIM + WIDE) + pairs * (3 * DIM + 2 * WIDE)


@given(batch=st.integers(1, 3), new=st.integers(1, 4000), columns=st.integers(1, 20000), width=st.integers(1, 256))
def test_blocks_of_queries_cover_all_within_the_limit(batch: int, new: int, columns: int, width: int) -> None:
    sizes = {"batch": batch, "heads": 8, "groups": 2, "width": width, "columns": columns}
    blocks = picked_blocks(**sizes, new=new)
    assert [start for start, _ in blocks] == [0, *(stop for _, stop in blocks[:-1])]
    assert blocks[-1][1] == new
    for start, stop in blocks:
        most = batch * (stop - start) * columns * max(8, 2 * width)
        assert most <= GATHERED or stop - start == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(dtype: torch.dtype) -> None:
    """Operands are widened first: half a unit in the last place of what float64 gives."""
    r = torch.Generator().manual_seed(0)
    q, keys, values = (torch.randn(2, *s, generator=r).to(dtype) for s in ((9, 4, 3), (9, 2, 3), (9, 2, 4)))
    time = Rows(pasts=(0, 0), counts=(9, 9), new=9, cached=False)
    sizes = {"every": 2, "size": 4, "select": 4, "count": 2, "initial": 0, "local": 1}
    wide = [t.double() for t in (q, keys, values)]
    got, picks = compressed_attention(q, keys[:, :4], values[:, :4], time, scale=SCALE, **sizes)
    want, exact = compressed_attention(wide[0], wide[1][:, :4], wide[2][:, :4], time, scale=SCALE, **sizes)
    assert torch.equal(picks, exact)
    for some, other in (
        (got, want),
        (
            block_attention(q, keys, values, picks, time, scale=SCALE, size=4),
            block_attention(*wide, picks, time, scale=SCALE, size=4),
        ),
    ):
        assert some.dtype == dtype
        torch.testing.assert_close(some.double(), other, rtol=torch.finfo(dtype).eps * 0.51, atol=1e-6)
    assert math.isfinite(float(got.sum()))
