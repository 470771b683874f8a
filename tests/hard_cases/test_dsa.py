"""Latent attention to picked tokens, by a flat index or one in two stages, on every history of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from archc.drawers.attention.dsa import Dsa
from archc.drawers.indexer.lightning import Lightning
from archc.drawers.indexer.two_stage import TwoStage
from archc.drawers.norm.layer import Layer as LayerNorm
from archc.drawers.norm.rms import Rms
from archc.drawers.rope.rope import Rope
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import dsa, rope
from tests.oracles.rows import Array

VOCAB = 50
SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def drawer(
    *,
    staged: bool = False,
    turns: bool = True,
    dim: int = 7,
    heads: int = 2,
    kv_rank: int = 6,
    nope: int = 4,
    topk: int = 3,
    end: Any = "first",
    pairs: Any = "half",
    bias: bool = False,
    rounding: Any = None,
) -> Dsa:
    """A layer of small odd sizes, whose index heads turn as DeepSeek-V3.2's do unless told otherwise."""
    norm = LayerNorm(eps=1e-6)
    wide = 7 if rounding is None else 8
    sizes: dict[str, Any] = {"heads": 3, "head_dim": wide, "topk": topk, "end": end, "pairs": pairs, "key_norm": norm}
    sizes |= {"rounding": rounding}
    return Dsa(
        dim=dim,
        heads=heads,
        q_rank=5,
        kv_rank=kv_rank,
        nope_dim=nope,
        rope_dim=4,
        v_dim=3,
        rope=Rope(theta=1000.0, pairs="interleaved") if turns else None,
        latent_norm=Rms(eps=1e-6),
        bias=bias,
        indexer=TwoStage(**sizes, block=2, blocks=3) if staged else Lightning(**sizes),
    )


def transcription(d: Dsa) -> dsa.Dsa:
    """The same sizes, for the transcription."""
    index: Any = d.indexer
    staged = isinstance(index, TwoStage)
    return dsa.Dsa(
        heads=d.heads,
        q_rank=d.q_rank,
        kv_rank=d.kv_rank,
        nope=d.nope_dim,
        rope_dim=d.rope_dim,
        values=d.v_dim,
        scale=(d.nope_dim + d.rope_dim) ** -0.5,
        rope=None if d.rope is None else rope.Rope(dim=4, theta=1000.0),
        index_heads=index.heads,
        index_dim=index.head_dim,
        topk=index.topk,
        first=index.end == "first",
        half=index.pairs == "half",
        block=index.block if staged else 0,
        blocks=index.blocks if staged else 0,
        rounding=index.rounding or "",
    )


@st.composite
def layers(draw: st.DrawFn) -> Dsa:
    """Odd sizes of both kinds of index."""
    return drawer(
        staged=draw(st.booleans()),
        turns=draw(st.booleans()),
        dim=draw(st.sampled_from([5, 7])),
        heads=draw(st.integers(1, 3)),
        kv_rank=draw(st.sampled_from([1, 6, 20])),
        nope=draw(st.integers(1, 5)),
        topk=draw(st.integers(1, 5)),
        end=draw(st.sampled_from(["first", "last"])),
        pairs=draw(st.sampled_from(["half", "interleaved"])),
        bias=draw(st.booleans()),
        rounding=draw(st.sampled_from([None, "fp8", "fp4"])),
    )


class Layer:
    """A graph of one such layer, and what the transcription says of it."""

    def __init__(self, d: Dsa, seed: int) -> None:
        graph = build(lambda g, x: g.call("self_attn", "Dsa", d.build, x, slot=True), dim=d.dim, vocab=VOCAB)
        self.case, self.oracle = Case.random(graph, seed), transcription(d)
        self.weights = self.case.weights("model.layers.0.self_attn.")

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        x = self.case.embedded(tokens)
        assume(self.oracle.margin(self.weights, x, start) > 1e-9)  # closer scores leave the choice to rounding
        return self.oracle.forward(self.weights, x, start)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_whole(d: Dsa, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_whole(layer.case, layer.expected, data, VOCAB, most=15)


@settings(SLOW, max_examples=10)
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_chunks_ragged_and_rewound(d: Dsa, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_cached(layer.case, layer.expected, data, VOCAB, most=17)


@settings(SLOW, max_examples=12)
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_packed(d: Dsa, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_packed(layer.case, layer.expected, data, VOCAB, most=9)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(
    ("past", "new", "cached"), [(0, 23, False), (0, 23, True), (11, 9, True), (15, 1, True), (16, 1, True)]
)
def test_plan_counts_what_runs(staged: bool, past: int, new: int, cached: bool) -> None:
    layer = Layer(drawer(staged=staged, rounding="fp8" if past else None), 0)
    check_flops(layer.case, VOCAB, batch=2, past=past, new=new, cached=cached)


@pytest.mark.parametrize("rounding", [None, "fp8"])
@pytest.mark.parametrize("staged", [False, True])
def test_gradient(staged: bool, rounding: str | None) -> None:
    """The choice of tokens has no gradient, so the indexer gets none from this loss."""
    check_gradient(Layer(drawer(staged=staged, bias=True, rounding=rounding), 1).case, VOCAB, without=("indexer",))


@pytest.mark.parametrize("staged", [False, True])
def test_what_is_not_picked_is_not_read(staged: bool) -> None:
    """The latent of a token that the last one leaves out may hold anything."""
    layer = Layer(drawer(staged=staged), 2)
    ids = torch.randint(VOCAB, (1, 20), generator=torch.Generator().manual_seed(0))
    x = layer.case.embedded(ids[0].tolist())
    chosen = layer.oracle.picks(layer.weights, x, 19, layer.oracle.index_keys(layer.weights, x))
    caches = [layer.case.interpreter.new_cache(1, 40, 6) for _ in range(2)]
    outs = []
    for cache, spoiled in zip(caches, (False, True), strict=True):
        layer.case.run(ids[:, :19], cache)
        if spoiled:
            left = [t for t in range(19) if t not in chosen]
            assert len(left) >= 16
            cache.layers[0].latents.data[:, left] = float("nan")
        outs.append(layer.case.run(ids[:, 19:], cache))
    assert torch.equal(*outs)
