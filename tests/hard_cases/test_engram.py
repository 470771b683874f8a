"""Hashed n-grams gated into residual streams, with a short convolution over what came before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.hard_cases.drawers.memory.engram import Engram
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import engram as transcribed
from tests.oracles.rows import Array

VOCAB, MERGED = 60, 5
"""Many tokens that merge into few ids, so that n-grams repeat."""


class Layer:
    """A graph of one memory on streams, and what the transcription says of it."""

    def __init__(
        self, *, streams: int, dim: int, orders: list[int], heads: int, taps: int, layer: int, seed: int
    ) -> None:
        drawer = Engram(
            vocab=VOCAB,
            compressed=MERGED,
            pad=2,
            layer=layer,
            orders=orders,
            heads=heads,
            head_dim=3,
            rows=20,
            skip=2,
            taps=taps,
        )
        graph = build(
            lambda g, x: g.call("memory", "EngramMemory", drawer.build, x, slot=True),
            dim=dim,
            vocab=VOCAB,
            streams=streams,
        )
        merged = torch.randint(MERGED, (VOCAB,), generator=torch.Generator().manual_seed(seed))
        self.case = Case.random(graph, seed, merged=merged)
        self.streams, self.dim, self.merged = streams, dim, merged.tolist()
        sizes = transcribed.table_sizes(20, 2, 1, len(orders) * heads + 2)[0]
        self.oracle = transcribed.Engram(
            streams=streams,
            orders=tuple(orders),
            heads=heads,
            multipliers=tuple(transcribed.multipliers(layer, MERGED, max(orders))),
            primes=tuple(sizes[2:]),
            pad=2,
            kernel=taps,
            dilation=max(orders),
        )
        own = self.case.weights("model.layers.0.memory.")
        keys = own["key_proj.weight"].reshape(streams, dim, -1)
        self.weights = {
            "embed.weight": own["embed.weight"],
            "value_proj.weight": own["value_proj.weight"],
            "key_norm.weight": own["k_weight"],
            "query_norm.weight": own["q_weight"],
            "conv.norm.weight": own["conv_norm"],
            "conv.weight": own["conv_weight"],
        } | {f"key_projs.{b}.weight": keys[b] for b in range(streams)}

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        x = self.case.embedded(tokens).reshape(len(tokens), self.streams, self.dim)
        return self.oracle.forward(self.weights, [self.merged[t] for t in tokens], x)[start:]


LAYERS = st.builds(
    Layer,
    streams=st.integers(1, 4),
    dim=st.sampled_from([3, 5, 8]),
    orders=st.sampled_from([[2, 3], [2, 3, 4], [3], [1, 2]]),
    heads=st.integers(1, 3),
    taps=st.integers(1, 4),
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


def test_released_sizes() -> None:
    """DeepSeek-V4.1-Flash: rows of its two tables, from the drawer's own constants."""
    first, second = (
        Engram(
            vocab=129280,
            compressed=99092,
            pad=2,
            layer=n,
            orders=[2, 3, 4],
            heads=8,
            head_dim=256,
            rows=16_000_000,
            skip=k,
        )
        for n, k in ((1, 0), (14, 24))
    )
    assert [sum(d.primes()) for d in (first, second)] == [384_006_168, 384_016_682]
