"""The attention of DeepSeek-V4 in every form: window and sink alone, or with entries of a compressor, seen all or
picked by a lightning indexer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from archc.drawers.attention.windowed import Windowed
from archc.drawers.compress.csa import Csa
from archc.drawers.compress.hca import Hca
from archc.drawers.indexer.lightning import Lightning
from archc.drawers.indexer.two_stage import TwoStage
from archc.drawers.rope.yarn import Yarn
from archc.schema import Compress
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import csa as transcribed
from tests.oracles.rope import Rope
from tests.oracles.rows import Array

VOCAB = 50
FORMS = ("window", "csa", "csa in two stages", "csa of all entries", "csa without overlap", "hca")
ROUNDED = ("csa in fp4", "csa in fp8", "csa in two stages in fp4")
EPS = 1e-6


def compressor(form: str, ratio: int, topk: int) -> Compress | None:
    """The compressor of a form."""
    if form == "window":
        return None
    if form == "hca":
        return Hca(ratio=ratio, eps=EPS)
    rounding: Any = form[-3:] if form in ROUNDED else None
    sizes = {"heads": 3, "head_dim": 8 if rounding else 6, "rounding": rounding}
    indexer = None if form == "csa of all entries" else Lightning(**sizes, topk=topk)
    if form.startswith("csa in two stages"):
        ratio, indexer = 2, TwoStage(**sizes, topk=min(topk, 4), block=2, blocks=2)
    return Csa(ratio=ratio, eps=EPS, overlap=form != "csa without overlap", indexer=indexer)


def drawer(
    form: str, *, dim: int, heads: int, head_dim: int, window: int, ratio: int, topk: int, **given: Any
) -> Windowed:
    """A layer of small odd sizes."""
    sizes = {"rope_dim": 4, "q_rank": 5, "out_groups": 2, "out_rank": 3, "eps": EPS}
    return Windowed(
        dim=dim,
        heads=2 * heads,
        head_dim=head_dim,
        window=window,
        rope=Yarn(theta=160000.0, factor=16.0, original=8, attention_factor=1.0, pairs="interleaved"),
        compress=compressor(form, ratio, topk),
        **sizes,
        **given,
    )


def transcription(d: Windowed) -> transcribed.Csa:
    """The same sizes, for the transcription."""
    pool = d.compress
    assert pool is None or isinstance(pool, Csa | Hca)
    index = pool.picker() if pool else None
    assert index is None or isinstance(index, Lightning)
    return transcribed.Csa(
        heads=d.heads,
        head_dim=d.head_dim,
        window=d.window,
        rope=Rope(dim=4, theta=160000.0, factor=16.0, original=8),
        out_groups=d.out_groups,
        scale=d.scale,
        sinks=d.sinks,
        q_norm=d.q_norm,
        every=pool.ratio if pool else 0,
        overlap=bool(pool and pool.overlaps()),
        topk=index.topk if index else 0,
        index_heads=index.heads if index else 0,
        index_dim=index.head_dim if index else 0,
        block=index.block if isinstance(index, TwoStage) else 0,
        blocks=index.blocks if isinstance(index, TwoStage) else 0,
        rounding=(index and index.rounding) or "",
    )


@st.composite
def layers(draw: st.DrawFn) -> Windowed:
    """Odd sizes of any form."""
    given: dict[str, Any] = {"scale": draw(st.sampled_from([0.3, 1.7]))} if draw(st.booleans()) else {}
    return drawer(
        draw(st.sampled_from((*FORMS, *ROUNDED))),
        dim=draw(st.sampled_from([5, 7, 8])),
        heads=draw(st.integers(1, 2)),
        head_dim=draw(st.sampled_from([4, 6, 7])),
        window=draw(st.integers(1, 6)),
        ratio=draw(st.integers(2, 5)),
        topk=draw(st.integers(1, 4)),
        sinks=draw(st.booleans()),
        q_norm=draw(st.booleans()),
        **given,
    )


class Layer:
    """A graph of one such layer, and what the transcription says of it."""

    def __init__(self, d: Windowed, seed: int) -> None:
        graph = build(lambda g, x: g.call("self_attn", "Attention", d.build, x, slot=True), dim=d.dim, vocab=VOCAB)
        self.case, self.oracle = Case.random(graph, seed), transcription(d)
        self.weights = self.case.weights("model.layers.0.self_attn.")

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        x = self.case.embedded(tokens)
        if self.oracle.topk:  # where two scores are closer than rounding, the choice is free
            assume(self.oracle.margin(self.weights, x, start) > 1e-9)
        return self.oracle.forward(self.weights, x, start)


SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_whole(d: Windowed, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_whole(layer.case, layer.expected, data, VOCAB, most=19)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_chunks_ragged_and_rewound(d: Windowed, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_cached(layer.case, layer.expected, data, VOCAB, most=21)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_packed(d: Windowed, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_packed(layer.case, layer.expected, data, VOCAB, most=9)


@pytest.mark.parametrize("form", [*FORMS, "csa in fp4"])
@pytest.mark.parametrize(
    ("past", "new", "cached"), [(0, 23, False), (0, 23, True), (11, 9, True), (15, 1, True), (16, 1, True)]
)
def test_plan_counts_what_runs(form: str, past: int, new: int, cached: bool) -> None:
    layer = Layer(drawer(form, dim=7, heads=2, head_dim=6, window=5, ratio=4, topk=2), 0)
    check_flops(layer.case, VOCAB, batch=2, past=past, new=new, cached=cached)


@pytest.mark.parametrize("form", [*FORMS, "csa in fp4"])
def test_gradient(form: str) -> None:
    """The choice of entries has no gradient, so the indexer gets none from this loss."""
    layer = Layer(drawer(form, dim=7, heads=2, head_dim=6, window=3, ratio=3, topk=2), 1)
    check_gradient(layer.case, VOCAB, without=("indexer",))
