"""Hyper-connections of every kind around two sub-layers: a window of attention and a gated feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.drawers.activation.silu import Silu
from archc.drawers.attention.windowed import Windowed
from archc.drawers.ffn.swiglu import Swiglu
from archc.drawers.residual.hc import Hc
from archc.drawers.residual.mhc import Mhc
from archc.drawers.rope.rope import Rope as PlainRope
from archc.graph import Builder, Value
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import hc, mhc
from tests.oracles.csa import Csa
from tests.oracles.rope import Rope
from tests.oracles.rows import Array, rms_norm, swiglu_mlp

VOCAB = 40
KINDS: dict[str, tuple[Callable[[int, int], Any], Callable[[int, int], Any]]] = {
    "v4": (lambda n, iters: Mhc(streams=n, sinkhorn_iters=iters), lambda n, iters: mhc.Mhc(streams=n, iters=iters)),
    "paper": (
        lambda n, iters: Mhc(streams=n, sinkhorn_iters=iters, form="paper"),
        lambda n, iters: mhc.PaperMhc(streams=n, iters=iters),
    ),
    "single_pass": (
        lambda n, iters: Mhc(streams=n, sinkhorn_iters=iters, form="single_pass", norm_eps=1e-20),
        lambda n, iters: mhc.SinglePassMhc(streams=n, iters=iters, norm_eps=1e-20),
    ),
    "dynamic": (lambda n, _: Hc(streams=n), lambda n, _: hc.Hc(rate=n)),
    "static": (lambda n, _: Hc(streams=n, dynamic=False), lambda n, _: hc.Hc(rate=n, dynamic=False)),
}
"""The drawer of so many streams, and its transcription, by name; those with Sinkhorn's iteration run it so often."""

FORMS = pytest.mark.parametrize("form", KINDS)


class Layer:
    """A graph of one layer between the streams' start and their collapse, and what the transcriptions say of it."""

    def __init__(self, *, streams: int, dim: int, window: int, iters: int, seed: int, form: str = "v4") -> None:
        residual, self.oracle = (make(streams, iters) for make in KINDS[form])
        rope = PlainRope(pairs="interleaved")
        attention = Windowed(
            dim=dim, heads=2, head_dim=6, rope_dim=4, q_rank=5, out_groups=1, out_rank=4, window=window, rope=rope
        )
        ffn = Swiglu(dim=dim, hidden=dim + 2, activation=Silu())

        def layer(g: Builder, *state: Value) -> tuple[Value, ...]:
            h, state = residual.enter(g, state, "attn")
            h = g.rms_norm("input_layernorm", h, eps=1e-6)
            state = residual.leave(g, state, g.call("self_attn", "Window", attention.build, h, slot=True))
            h, state = residual.enter(g, state, "ffn")
            h = g.rms_norm("post_attention_layernorm", h, eps=1e-6)
            return residual.leave(g, state, g.call("mlp", "Mlp", ffn.build, h, slot=True))

        graph = build(
            layer,
            dim=dim,
            vocab=VOCAB,
            start=residual.start,
            finish=lambda g, *state: residual.finish(g, state),
        )
        self.case = Case.random(graph, seed)
        self.weights = self.case.weights("model.layers.0.") | self.case.weights("model.")
        self.attention = Csa(heads=2, head_dim=6, window=window, rope=Rope(dim=4), out_groups=1)

    def attend(self, x: Array) -> Array:
        """The first sub-layer of a row [S, D]."""
        normed = np.stack([rms_norm(t, self.weights["input_layernorm.weight"], 1e-6) for t in x])
        return self.attention.forward(self.case.weights("model.layers.0.self_attn."), normed)

    def feed_forward(self, x: Array) -> Array:
        """The second."""
        norm = self.weights["post_attention_layernorm.weight"]
        return np.stack([swiglu_mlp(self.weights, "mlp.", rms_norm(t, norm, 1e-6)) for t in x])

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        sublayers = [("attn", self.attend), ("ffn", self.feed_forward)]
        return self.oracle.forward(self.weights, self.case.embedded(tokens), sublayers)[start:]


LAYERS = st.builds(
    Layer,
    streams=st.integers(1, 5) | st.just(8),
    dim=st.sampled_from([5, 6, 8]),
    window=st.integers(1, 4),
    iters=st.sampled_from([1, 3, 20]),
    form=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 1 << 30),
)


@given(layer=LAYERS, data=st.data())
def test_whole(layer: Layer, data: st.DataObject) -> None:
    play_whole(layer.case, layer.expected, data, VOCAB, most=7)


@given(layer=LAYERS, data=st.data())
def test_chunks_ragged_and_rewound(layer: Layer, data: st.DataObject) -> None:
    play_cached(layer.case, layer.expected, data, VOCAB, most=10)


@given(layer=LAYERS, data=st.data())
def test_packed(layer: Layer, data: st.DataObject) -> None:
    play_packed(layer.case, layer.expected, data, VOCAB, most=4)


@FORMS
@pytest.mark.parametrize(("past", "new", "cached"), [(0, 9, False), (0, 9, True), (6, 1, True)])
def test_plan_counts_what_runs(past: int, new: int, cached: bool, form: str) -> None:
    layer = Layer(streams=4, dim=6, window=3, iters=20, seed=0, form=form)
    check_flops(layer.case, VOCAB, batch=3, past=past, new=new, cached=cached)


@FORMS
def test_gradient(form: str) -> None:
    check_gradient(Layer(streams=4, dim=6, window=3, iters=20, seed=1, form=form).case, VOCAB)
