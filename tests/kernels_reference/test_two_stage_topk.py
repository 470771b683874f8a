"""An index search in two stages, against one query at a time; and against a search among all entries."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.block_means import block_means
from kernels.groups import opened
from kernels.index_topk import index_topk
from kernels.packed_rows import Fp4Keys, Fp8Tiles
from kernels.sparse_blocks import two_stage_blocks, two_stage_pairs
from kernels.state import Packed
from kernels.two_stage_topk import two_stage_topk
from tests.kernels_reference.clock import Rows, rows
from tests.kernels_reference.test_choice import first_best
from tests.kernels_reference.test_groups import group_starts

LIMITS = st.sampled_from([1, 60, 1 << 24])


def all_means(keys: Tensor, time: Rows, every: int, block: int) -> Tensor:
    """The key of every block so far, as a table holds them: that of block i in row i, noise where there is none."""
    batch, span = len(time.pasts), every * block
    means = torch.full((batch, (time.past + time.new) // span, keys.shape[-1]), 1e6, dtype=keys.dtype)
    for b in range(batch):
        starts = group_starts(time, b, time.pasts[b] + time.counts[b], every)
        blocks = group_starts(time, b, time.pasts[b] + time.counts[b], span)
        for i, s in enumerate(blocks):
            first = starts.index(s)
            means[b, i] = keys[b, first : first + block].mean(0)
    return means


def expected(
    scores: list[float], of_blocks: list[float], seen: list[int], *, block: int, keep: int, k: int
) -> list[int]:
    """Ids of the picks, from the scores of entries, those of finished blocks, and the entries that are seen."""
    parts = [seen[i : i + block] for i in range(0, len(seen), block)]
    always = {0, len(parts) - 1}
    worth = [math.inf if i in always else of_blocks[i] for i in range(len(parts))]
    kept = sorted(first_best(worth, keep))
    ids = [i for part in kept for i in parts[part]]
    return [ids[i] for i in first_best([scores[i] for i in ids], k)]


def operands(time: Rows, every: int, heads: int, block: int, seed: int) -> tuple[Tensor, ...]:
    """Small whole numbers, so that many scores are equal and zero; means are then exact where blocks are 1, 2, 4."""
    r = torch.Generator().manual_seed(seed)
    batch, entries = len(time.pasts), (time.past + time.new) // every
    shapes = (batch, time.new, heads, 3), (batch, entries, 3), (batch, time.new, heads)
    q, keys, weights = (torch.randint(-2, 3, shape, generator=r).double() for shape in shapes)
    return q, keys, all_means(keys, time, every, block), weights


sizes = st.fixed_dictionaries(
    {
        "every": st.integers(1, 3),
        "k": st.integers(1, 6),
        "block": st.sampled_from([1, 2, 4]),
        "keep": st.integers(2, 5),
    }
)


@settings(max_examples=50)
@given(time=rows(), given=sizes, heads=st.integers(1, 3), limit=LIMITS, seed=st.integers(0, 1 << 30))
def test_it_is_the_best_of_the_best_blocks(
    time: Rows, given: dict[str, int], heads: int, limit: int, seed: int
) -> None:
    every, block = given["every"], given["block"]
    q, keys, means, weights = operands(time, every, heads, block, seed)
    picks = two_stage_topk(q, keys, means, weights, time, **given, limit=limit)
    entries = keys.shape[1]
    assert picks.shape == (len(time.pasts), time.new, min(given["k"], entries))

    def scored(b: int, j: int, key: Tensor) -> float:
        return sum(float(weights[b, j, h]) * max(float(q[b, j, h] @ key), 0.0) for h in range(heads))

    for b, j in time.valid():
        t = time.pasts[b] + j
        starts = group_starts(time, b, t + 1, every)
        seen = [i for i, s in enumerate(starts) if s >= time.start(b, t)]
        scores = [scored(b, j, keys[b, i]) for i in range(len(starts))]
        blocks = [
            scored(b, j, keys[b, seen[i] : seen[i] + block].mean(0)) for i in range(0, len(seen) - block + 1, block)
        ]
        want = expected(scores, blocks, seen, block=block, keep=given["keep"], k=picks.shape[-1])
        assert picks[b, j].tolist() == want + [-1] * (picks.shape[-1] - len(want))


@given(time=rows(), given=sizes, heads=st.integers(1, 3), limit=LIMITS, seed=st.integers(0, 1 << 30))
def test_a_budget_that_covers_everything_changes_nothing(
    time: Rows, given: dict[str, int], heads: int, limit: int, seed: int
) -> None:
    """Bit for bit, whatever the block keys are."""
    r = torch.Generator().manual_seed(seed)
    every, block, entries = given["every"], given["block"], (time.past + time.new) // given["every"]
    batch = len(time.pasts)
    shapes = (batch, time.new, heads, 5), (batch, entries, 5), (batch, time.new, heads)
    q, keys, weights = (torch.randn(shape, generator=r) for shape in shapes)
    means = torch.full((batch, entries // block, 5), math.nan)
    keep = max(2, -(-entries // block))
    picks = two_stage_topk(q, keys, means, weights, time, **(given | {"keep": keep}), limit=limit)
    assert torch.equal(picks, index_topk(q, keys, weights, time, k=given["k"], every=every, limit=limit))


@given(time=rows(), every=st.integers(1, 3), block=st.integers(1, 4), seed=st.integers(0, 1 << 30))
def test_block_means_are_of_the_blocks_that_a_call_completes(time: Rows, every: int, block: int, seed: int) -> None:
    entries, span = (time.past + time.new) // every, every * block
    keys = torch.randn(len(time.pasts), entries, 3, generator=torch.Generator().manual_seed(seed)).double()
    found, want = block_means(keys, time, block=block, every=every), all_means(keys, time, every, block)
    for b in range(len(time.pasts)):
        end = time.pasts[b] + time.counts[b]
        before, after = (len(group_starts(time, b, t, span)) for t in (time.pasts[b], end))
        torch.testing.assert_close(found[b, : after - before], want[b, before:after], rtol=0, atol=1e-12)


@given(time=rows(), given=sizes, seed=st.integers(0, 1 << 30))
def test_packed_keys_are_read_as_what_they_decode_to(time: Rows, given: dict[str, int], seed: int) -> None:
    every, block = given["every"], given["block"]
    q, keys, means, weights = (x.float() for x in operands(time, every, 2, block, seed))
    for packing in (Fp4Keys(), Fp8Tiles()):
        held = [Packed(data=packing.encode(x), packing=packing, channels=3, dtype=torch.float32) for x in (keys, means)]
        got = two_stage_topk(q, *held, weights, time, **given)
        assert torch.equal(got, two_stage_topk(q, *(x.decode() for x in held), weights, time, **given))
        there = opened(time, every * block) >= 0
        found = [block_means(x, time, block=block, every=every)[there] for x in (held[0], held[0].decode())]
        assert torch.equal(*found)


@settings(max_examples=30)
@given(past=st.integers(0, 50), new=st.integers(1, 40), given=sizes, limit=st.sampled_from([1, 300, 1 << 24]))
def test_blocks_count_what_runs(past: int, new: int, given: dict[str, int], limit: int) -> None:
    time = Rows(pasts=(past, past), counts=(new, new), new=new, cached=True)
    every, block, keep = given["every"], given["block"], given["keep"]
    entries, heads, dim = (past + new) // every, 3, 4
    q, keys, weights = torch.rand(2, new, heads, dim), torch.rand(2, entries, dim), torch.rand(2, new, heads)
    means = torch.rand(2, entries // block, dim)
    with FlopCounterMode(display=False) as counter:
        two_stage_topk(q, keys, means, weights, time, **given, limit=limit)
    sizes = {"batch": 2, "heads": heads, "width": dim, "past": past, "new": new, "every": every, "entries": entries}
    sizes |= {"block": block, "keep": keep, "limit": limit}
    assert counter.get_total_flops() == 2 * 2 * heads * (dim + 1) * two_stage_pairs(**sizes)
    flat, blocks = two_stage_blocks(**sizes)
    edges = [flat, *(stop for _, stop, _ in blocks)]
    assert [start for start, _, _ in blocks] == edges[:-1]
    assert edges[-1] == new
    rows = [(stop - start, seen) for start, stop, seen in blocks if stop - start > 1]
    assert all(2 * n * heads * max(seen, block * keep) <= limit for n, seen in rows)
    assert all(2 * n * dim * block * keep <= limit for n, _ in rows)


def test_a_long_row_is_searched_with_a_fraction_of_the_products() -> None:
    """A token after 131,071 others, in blocks of 128 of which 64 are kept (the setting of HISA): 1,022 block keys and
    8,192 entries instead of 131,072.
    """
    sizes = {"batch": 1, "heads": 64, "width": 128, "past": (1 << 17) - 1, "new": 1, "every": 1, "entries": 1 << 17}
    assert two_stage_pairs(**sizes, block=128, keep=64) == 1022 + 64 * 128


def test_it_compiles_as_one_graph() -> None:
    """A chunk of which some queries see few blocks and others more, and a single token."""
    r = torch.Generator().manual_seed(0)
    for past, new in ((5, 9), (20, 1)):
        time = Rows(pasts=(past, past), counts=(new, new), new=new, cached=True)
        q, keys, weights = (
            torch.randn(2, n, *rest, generator=r) for n, *rest in ((new, 2, 3), (past + new, 3), (new, 2))
        )
        means = all_means(keys, time, 1, 2)

        def search(q: Tensor, keys: Tensor, means: Tensor, weights: Tensor, time: Rows = time) -> Tensor:
            return two_stage_topk(q, keys, means, weights, time, k=3, block=2, keep=3)

        torch._dynamo.reset()
        compiled = torch.compile(search, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(q, keys, means, weights), search(q, keys, means, weights))
