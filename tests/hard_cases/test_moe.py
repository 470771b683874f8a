"""Routed experts beside a shared one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.drawers.activation.silu import Silu
from archc.drawers.ffn.moe import Moe
from archc.drawers.router.sigmoid import Sigmoid
from archc.drawers.router.sqrtsoftplus import SqrtSoftplus
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import moe as transcribed
from tests.oracles.rows import Array

VOCAB = 50


class Layer:
    """A graph of one mixture, and what the transcription says of it."""

    def __init__(
        self,
        *,
        dim: int,
        groups: int,
        keep: int,
        size: int,
        active: int,
        shared: int,
        scoring: Literal["sigmoid", "sqrt_softplus"],
        seed: int,
    ) -> None:
        keep = min(keep, groups)
        active = min(active, keep * size)
        routing = {"active": active, "groups": groups, "keep_groups": keep, "scale": 2.5}
        router = (Sigmoid if scoring == "sigmoid" else SqrtSoftplus)(**routing)
        drawer = Moe(dim=dim, experts=groups * size, hidden=3, shared=shared, activation=Silu(), router=router)
        graph = build(lambda g, x: g.call("mlp", "Moe", drawer.build, x, slot=True), dim=dim, vocab=VOCAB)
        self.case = Case.random(graph, seed)
        self.oracle = transcribed.Moe(experts=groups * size, scoring=scoring, **routing)
        self.weights = self.case.weights("model.layers.0.mlp.")

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        return self.oracle.forward(self.weights, self.case.embedded(tokens[start:]))


LAYERS = st.builds(
    Layer,
    dim=st.sampled_from([5, 7, 8]),
    groups=st.integers(1, 4),
    keep=st.integers(1, 3),
    size=st.integers(2, 4),
    active=st.integers(1, 5),
    shared=st.integers(1, 2),
    scoring=st.sampled_from(["sigmoid", "sqrt_softplus"]),
    seed=st.integers(0, 1 << 30),
)


@given(layer=LAYERS, data=st.data())
def test_whole(layer: Layer, data: st.DataObject) -> None:
    play_whole(layer.case, layer.expected, data, VOCAB, most=9)


@given(layer=LAYERS, data=st.data())
def test_chunks_ragged_and_rewound(layer: Layer, data: st.DataObject) -> None:
    play_cached(layer.case, layer.expected, data, VOCAB, most=9)


@given(layer=LAYERS, data=st.data())
def test_packed(layer: Layer, data: st.DataObject) -> None:
    play_packed(layer.case, layer.expected, data, VOCAB, most=5)


@pytest.mark.parametrize(("past", "new", "cached"), [(0, 9, False), (0, 9, True), (6, 1, True)])
def test_plan_counts_what_runs(past: int, new: int, cached: bool) -> None:
    layer = Layer(dim=6, groups=3, keep=2, size=4, active=3, shared=1, scoring="sigmoid", seed=0)
    check_flops(layer.case, VOCAB, batch=2, past=past, new=new, cached=cached)


def test_gradient() -> None:
    """The bias only chooses, so it is a buffer that the loss does not move."""
    layer = Layer(dim=6, groups=2, keep=1, size=3, active=2, shared=1, scoring="sigmoid", seed=1)
    check_gradient(layer.case, VOCAB, without=("e_score_correction_bias",))
