"""What native sparse attention reads to decode one token, against the table of its paper, and what it keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import archc
from archc.cost.placement import Split, splits
from archc.graph import Graph
from archc.ops import Workload
from archc.ops.base import nbytes
from archc.ops.blocks import block_pairs
from archc.plan import plan

READS = {"compressed_attention", "block_attention", "attend"}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return plan(archc.load("nsa_27b"), names=False)


# Yuan et al. 2025, arXiv:2502.11089, table 4: the tokens whose keys and values a decoded token reads.
@pytest.mark.parametrize(("context", "published"), [(8192, 2048), (16_384, 2560), (32_768, 3584), (65_536, 5632)])
def test_rows_that_a_decoded_token_reads(graph: Graph, context: int, published: int) -> None:
    """Bytes of keys and values that attention reads, over those of one token: entries are as wide as tokens."""
    w = Workload(batch=1, new=1, past=context - 1, cached=True)
    read = 0.0
    for node, times in graph.walk():
        if node.op.kind in READS:
            ins = tuple(v.type for v in node.ins)
            shares = node.op.shares(w, ins, tuple(v.type for v in node.outs))
            read += times * sum(shares[i] * nbytes(ins[i], w) for i in (1, 2))
    model = archc.load("nsa_27b")
    token = 4 * (192 + 128) * 2
    assert read / (len(model.schedule) * token) == pytest.approx(published, abs=2)


def test_bytes_that_a_decoded_token_reads(graph: Graph) -> None:
    """All that the three ops read and write but for queries, picks and results: the same rows."""
    w = Workload(batch=1, new=1, past=65_535, cached=True)
    costs = {}
    for node, _ in graph.walk():
        if node.op.kind in READS:
            ins, outs = (tuple(v.type for v in values) for values in (node.ins, node.outs))
            costs[node.op.kind] = node.op.cost(w, ins, outs)
    token, q, y, picks = 4 * (192 + 128) * 2, 64 * 192 * 2, 64 * 128 * 2, 4 * 16 * 8
    assert costs["compressed_attention"].read == q + 4096 * token
    assert costs["compressed_attention"].written == y + picks
    assert costs["block_attention"].read == q + 1024 * token + picks
    assert costs["attend"].read == q + 512 * token


def test_what_a_cache_holds() -> None:
    """Keys and values of every token, entries of every 16th, two windows of 511 and the tokens of a begun block."""
    cache = archc.cost(archc.load("nsa_27b"), context=65_536).kv_cache
    token = 30 * 4 * (192 + 128) * 2
    assert cache.bytes_per_token == token * (1 + 1 / 16)
    rows = (511 + 8) + (31 + 8)  # and 8 that can be taken back
    assert cache.bytes_per_sequence_fixed == token * rows + 8


def test_parameters_by_hand() -> None:
    """Section 4.1 gives what is here but for the widths that the spec marks: 27B in all."""
    params = archc.cost(archc.load("nsa_27b")).params
    dim, heads, kv, dk, dv = 2560, 64, 4, 192, 128
    attention = dim * heads * dk + 2 * dim * kv * (dk + dv) + heads * dv * dim + dim * 192 + 192 * 3 * heads
    entries = dim * kv * (dk + dv) + 32 * (dk + dv) + 192 * 32 * (dk + dv) + 192 * (dk + dv)
    assert params.by_component["attention"] == 30 * attention
    assert params.by_component["compressor"] == 30 * entries
    assert 27.6e9 < params.total < 27.95e9
    assert round(params.total / 1e9) == 28  # the paper's 27B cuts what follows
    without = params.active_core - params.by_component["attention"] - params.by_component["compressor"]
    assert round(without / 1e9) == 3


def test_what_tensor_parallelism_splits(graph: Graph) -> None:
    """Heads with the keys that they read, those of entries included; what makes entries of a head is everywhere."""
    prefix = "model.layers.0.self_attn."
    named = {".".join((*v.scope.path(), v.param.name)): split for v, split in splits(graph).items() if v.param}
    found = {name: split for name, split in named.items() if name.startswith(prefix)}
    own = {"q_proj": 64, "gate_proj": 64, "compressor.key_proj": 4, "compressor.value_proj": 4}
    own |= {f"{branch}_{x}_proj": 4 for branch in ("selected", "window") for x in "kv"}
    want = {f"{prefix}{name}.weight": Split(0, parts) for name, parts in own.items()}
    assert found == want | {f"{prefix}o_proj.weight": Split(1, 64)}


@given(
    batch=st.integers(1, 3),
    new=st.integers(1, 60),
    past=st.integers(0, 90),
    size=st.integers(1, 9),
    count=st.integers(1, 6),
)
def test_pairs_of_chosen_blocks(batch: int, new: int, past: int, size: int, count: int) -> None:
    """Token by token: all tokens up to it, or its own block up to it and ``count - 1`` whole ones."""
    seen = [min(t + 1, (count - 1) * size + t % size + 1) for t in range(past, past + new)]
    assert block_pairs(Workload(batch=batch, new=new, past=past, cached=True), size, count) == batch * sum(seen)
