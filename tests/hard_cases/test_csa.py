"""Compressed sparse attention: overlapping compressor, lightning indexer, window, sink."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from archc.drawers.rope.yarn import Yarn
from tests.hard_cases.drawers.attention.compressed import Compressed
from tests.hard_cases.drawers.compress.pool import Pool
from tests.hard_cases.drawers.indexer.lightning import Lightning
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles.csa import Csa
from tests.oracles.rope import Rope
from tests.oracles.rows import Array

VOCAB = 50
FORMS = ("sparse", "all", "window")


def drawer(form: str, *, dim: int, heads: int, head_dim: int, window: int, every: int, topk: int) -> Compressed:
    """CSA, HCA (every entry is seen, groups do not overlap), or a window alone."""
    indexer = Lightning(heads=3, head_dim=6, topk=topk) if form == "sparse" else None
    pool = Pool(every=every, overlap=form == "sparse", indexer=indexer)
    rope = Yarn(theta=160000.0, factor=16.0, original=8, attention_factor=1.0, dim=4, pairs="interleaved", end="last")
    sizes = {"q_rank": 5, "out_groups": 2, "out_rank": 3, "eps": 1e-6, "rope": rope}
    return Compressed(
        dim=dim, heads=2 * heads, head_dim=head_dim, window=window, compress=None if form == "window" else pool, **sizes
    )


def transcription(d: Compressed) -> Csa:
    """The same sizes, for the transcription."""
    pool = d.compress
    assert pool is None or isinstance(pool, Pool)
    index = pool.indexer if pool else None
    assert index is None or isinstance(index, Lightning)
    return Csa(
        heads=d.heads,
        head_dim=d.head_dim,
        window=d.window,
        rope=Rope(dim=4, theta=160000.0, factor=16.0, original=8),
        out_groups=d.out_groups,
        every=pool.every if pool else 0,
        overlap=bool(pool and pool.overlap),
        topk=index.topk if index else 0,
        index_heads=index.heads if index else 0,
        index_dim=index.head_dim if index else 0,
    )


@st.composite
def layers(draw: st.DrawFn) -> Compressed:
    """Odd sizes of any form."""
    return drawer(
        draw(st.sampled_from(FORMS)),
        dim=draw(st.sampled_from([5, 7, 8])),
        heads=draw(st.integers(1, 2)),
        head_dim=draw(st.sampled_from([6, 7])),
        window=draw(st.integers(1, 6)),
        every=draw(st.integers(2, 5)),
        topk=draw(st.integers(1, 4)),
    )


class Layer:
    """A graph of one such layer, and what the transcription says of it."""

    def __init__(self, d: Compressed, seed: int) -> None:
        graph = build(lambda g, x: g.call("self_attn", "Csa", d.build, x, slot=True), dim=d.dim, vocab=VOCAB)
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
def test_whole(d: Compressed, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_whole(layer.case, layer.expected, data, VOCAB, most=19)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_chunks_ragged_and_rewound(d: Compressed, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_cached(layer.case, layer.expected, data, VOCAB, most=21)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_packed(d: Compressed, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_packed(layer.case, layer.expected, data, VOCAB, most=9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("past", "new", "cached"), [(0, 23, False), (0, 23, True), (11, 9, True), (15, 1, True), (16, 1, True)]
)
def test_plan_counts_what_runs(form: str, past: int, new: int, cached: bool) -> None:
    layer = Layer(drawer(form, dim=7, heads=2, head_dim=6, window=5, every=4, topk=2), 0)
    check_flops(layer.case, VOCAB, batch=2, past=past, new=new, cached=cached)


@pytest.mark.parametrize("form", FORMS)
def test_gradient(form: str) -> None:
    """The choice of entries has no gradient, so the indexer gets none from this loss."""
    layer = Layer(drawer(form, dim=7, heads=2, head_dim=6, window=3, every=3, topk=2), 1)
    check_gradient(layer.case, VOCAB, without=("indexer",))
