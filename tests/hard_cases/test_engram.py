"""Hashed n-grams gated into residual streams, with a short convolution over what came before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archc.drawers.memory.engram import Engram
from archc.schema import Memory
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import engram as transcribed
from tests.oracles.rows import Array

VOCAB = 5
"""Few tokens, so that n-grams repeat."""
MERGED = 3
"""Ids after merging, where there is any."""

HEAD, ROWS = 3, 20


class Layer:
    """A graph of one memory on streams, and what the transcription says of it."""

    def __init__(self, *, streams: int, dim: int, layer: int, seed: int, earlier: int = 0, **fields: Any) -> None:
        ids = fields.get("ids")
        merged = torch.randint(MERGED, (VOCAB,), generator=torch.Generator().manual_seed(seed))
        drawer = Engram(vocab=VOCAB, pad=2, head_dim=HEAD, rows=ROWS, **fields)
        before: list[Memory] = []
        for number in range(earlier):
            before.append(drawer.at(number, before))
        placed = drawer.at(layer, before)
        graph = build(
            lambda g, x: g.call("memory", "EngramMemory", placed.build, x, slot=True),
            dim=dim,
            vocab=VOCAB,
            streams=streams,
        )
        self.case = Case.random(graph, seed, **({} if ids is None else {"merged": merged}))
        self.streams, self.dim = streams, dim
        self.id_of = list(range(VOCAB)) if ids is None else merged.tolist()
        self.oracle = transcribed.Engram(
            streams=streams,
            orders=tuple(drawer.orders),
            heads=drawer.heads,
            multipliers=tuple(transcribed.multipliers(layer, ids or VOCAB, max(drawer.orders))),
            primes=tuple(transcribed.table_sizes(ROWS, earlier + 1, len(drawer.orders), drawer.heads)[-1]),
            pad=2,
            kernel=drawer.taps,
            dilation=fields.get("dilation", max(drawer.orders)),
            signed_root=drawer.signed_root,
            bias=drawer.bias,
        )
        own = self.case.weights("model.layers.0.memory.")
        keys = own["key_proj.weight"].reshape(streams, dim, -1)
        self.weights = {
            "embed.weight": own["embed.table.weight"],
            "value_proj.weight": own["value_proj.weight"],
            "key_norm.weight": own["k_weight"],
            "query_norm.weight": own["q_weight"],
        } | {f"key_projs.{b}.weight": keys[b] for b in range(streams)}
        if drawer.taps:
            self.weights |= {"conv.norm.weight": own["conv_norm"], "conv.weight": own["conv_weight"]}
        if drawer.bias:
            keys = own["key_proj.bias"].reshape(streams, dim)
            self.weights |= {f"key_projs.{b}.bias": keys[b] for b in range(streams)}
            self.weights |= {"value_proj.bias": own["value_proj.bias"]}

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        x = self.case.embedded(tokens).reshape(len(tokens), self.streams, self.dim)
        return self.oracle.forward(self.weights, [self.id_of[t] for t in tokens], x)[start:]


LAYERS = st.builds(
    Layer,
    streams=st.integers(1, 4),
    dim=st.sampled_from([3, 5, 8]),
    orders=st.sampled_from([[2, 3], [2, 3, 4], [3], [1, 2], [1], [3, 2]]),
    heads=st.integers(1, 3),
    taps=st.integers(0, 4),
    dilation=st.integers(1, 4),
    signed_root=st.booleans(),
    bias=st.booleans(),
    ids=st.sampled_from([None, MERGED]),
    earlier=st.integers(0, 2),
    layer=st.integers(0, 30),
    seed=st.integers(0, 1 << 30),
)


@given(layer=LAYERS, data=st.data())
def test_whole(layer: Layer, data: st.DataObject) -> None:
    play_whole(layer.case, layer.expected, data, VOCAB, most=14)


@given(layer=LAYERS, data=st.data())
def test_chunks_ragged_and_rewound(layer: Layer, data: st.DataObject) -> None:
    play_cached(layer.case, layer.expected, data, VOCAB, most=18)


@given(layer=LAYERS, data=st.data())
def test_packed(layer: Layer, data: st.DataObject) -> None:
    play_packed(layer.case, layer.expected, data, VOCAB, most=7)


@pytest.mark.parametrize(("past", "new", "cached"), [(0, 9, False), (0, 9, True), (6, 1, True)])
def test_plan_counts_what_runs(past: int, new: int, cached: bool) -> None:
    layer = Layer(streams=4, dim=5, orders=[2, 3], heads=2, taps=4, layer=1, seed=0)
    check_flops(layer.case, VOCAB, batch=2, past=past, new=new, cached=cached)


def test_gradient() -> None:
    check_gradient(Layer(streams=3, dim=5, orders=[2, 3], heads=2, taps=4, layer=1, seed=1).case, VOCAB)
