"""What a process holds of parameters that are sharded, against the chunks of torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import archc
from archc.cost.shards import rank_rows, rank_shapes
from archc.plan import plan, shrink


@given(rows=st.integers(1, 300), ways=st.integers(1, 40))
def test_rows_are_the_chunks_of_torch(rows: int, ways: int) -> None:
    chunks = [len(chunk) for chunk in torch.arange(rows).chunk(ways)]
    held = [rank_rows(rows, ways, rank) for rank in range(ways)]
    assert held == chunks + [0] * (ways - len(chunks))
    assert sum(held) == rows


@pytest.mark.parametrize("ways", [1, 2, 3, 8, 1000])
def test_processes_hold_all_of_every_parameter_once(ways: int) -> None:
    graph = plan(shrink(archc.load("deepseek_v4_flash")))
    shares = [rank_shapes(graph, ways, rank) for rank in range(ways)]
    want = {p.name: p.spec.shape for p in graph.parameters() if not p.spec.buffer}
    assert all(share.keys() == want.keys() for share in shares)
    for name, shape in want.items():
        assert sum(share[name][0] for share in shares) == shape[0]
        assert {share[name][1:] for share in shares} == {shape[1:]}
    assert rank_shapes(graph, ways, ways - 1, padded=True) == shares[0]


def test_a_rank_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 4, of 4 it is 0 to 3"):
        rank_shapes(plan(shrink(archc.load("llama_3_1_8b"))), 4, 4)
