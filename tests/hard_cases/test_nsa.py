"""Native sparse attention: entries of overlapping blocks, chosen blocks and a window, whole and in any pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from archc.drawers.attention.nsa import Nsa
from archc.drawers.rope.yarn import Yarn
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import nsa as transcribed
from tests.oracles.rope import Rope
from tests.oracles.rows import Array

VOCAB = 50


def drawer(**given: Any) -> Nsa:
    """A layer of small odd sizes."""
    sizes: dict[str, Any] = {"dim": 7, "heads": 4, "kv_heads": 2, "head_dim": 6, "v_dim": 5, "stride": 2}
    sizes |= {"compress_block": 4, "compress_hidden": 3, "select_block": 6, "blocks": 3, "initial": 1, "local": 1}
    sizes |= {"window": 5, "gate_hidden": 3}
    rope = Yarn(theta=160000.0, factor=16.0, original=8, attention_factor=1.0, pairs="interleaved", dim=4, end="last")
    return Nsa(**(sizes | {"rope": rope} | given))


def transcription(d: Nsa) -> transcribed.Nsa:
    """The same sizes, for the transcription."""
    return transcribed.Nsa(
        heads=d.heads,
        kv_heads=d.kv_heads,
        head_dim=d.head_dim,
        v_dim=d.v_dim,
        l=d.compress_block,
        d=d.stride,
        chosen=d.select_block,
        n=d.blocks,
        initial=d.initial,
        local=d.local,
        w=d.window,
        mapping=d.mapping,
        shared_gates=d.gates == "shared",
        scale=d.scale,
        rope=None if d.rope is None else Rope(dim=4, theta=160000.0, factor=16.0, original=8),
    )


@st.composite
def layers(draw: st.DrawFn) -> Nsa:
    """Odd sizes; choices that leave blocks out."""
    stride, parts, kv_heads = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    initial, local = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    given: dict[str, Any] = {"rope": None} if draw(st.booleans()) else {}
    given |= {"scale": draw(st.sampled_from([0.3, 1.7]))} if draw(st.booleans()) else {}
    return drawer(
        dim=draw(st.sampled_from([5, 7, 8])),
        heads=kv_heads * draw(st.integers(1, 2)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 6, 7])),
        stride=stride,
        compress_block=stride * parts,
        select_block=stride * draw(st.integers(parts, 4)),
        blocks=initial + local + draw(st.integers(0, 1)),
        initial=initial,
        local=local,
        window=draw(st.integers(1, 6)),
        mapping=draw(st.sampled_from(["overlap", "minus", "plus"])),
        gates=draw(st.sampled_from(["head", "shared"])),
        gate_hidden=draw(st.sampled_from([None, 3])),
        **given,
    )


class Layer:
    """A graph of one such layer, and what the transcription says of it."""

    def __init__(self, d: Nsa, seed: int) -> None:
        graph = build(lambda g, x: g.call("self_attn", "Attention", d.build, x, slot=True), dim=d.dim, vocab=VOCAB)
        self.case, self.oracle = Case.random(graph, seed), transcription(d)
        self.weights = self.case.weights("model.layers.0.self_attn.")

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        x = self.case.embedded(tokens)
        # Where two scores are closer than rounding, the choice is free
        assume(self.oracle.margin(self.weights, x, start) > 1e-9)
        return self.oracle.forward(self.weights, x, start)


SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], max_examples=12)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_whole(d: Nsa, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_whole(layer.case, layer.expected, data, VOCAB, most=19)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_chunks_ragged_and_rewound(d: Nsa, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_cached(layer.case, layer.expected, data, VOCAB, most=19)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), data=st.data())
def test_packed(d: Nsa, seed: int, data: st.DataObject) -> None:
    layer = Layer(d, seed)
    play_packed(layer.case, layer.expected, data, VOCAB, most=9)


FORMS: dict[str, dict[str, Any]] = {
    "overlapping": {},
    "apart": {"compress_block": 2},
    "one head each": {"kv_heads": 4, "blocks": 2, "gates": "shared"},
    "three to an entry": {"compress_block": 6, "initial": 0, "blocks": 1, "gate_hidden": None},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("past", "new", "cached"), [(0, 23, False), (0, 23, True), (11, 9, True), (15, 1, True), (16, 1, True)]
)
def test_plan_counts_what_runs(form: str, past: int, new: int, cached: bool) -> None:
    layer = Layer(drawer(**FORMS[form]), 0)
    check_flops(layer.case, VOCAB, batch=2, past=past, new=new, cached=cached)


@pytest.mark.parametrize("form", FORMS)
def test_gradient(form: str) -> None:
    """Everything learns: the choice has no gradient, but what it is made of is attended to."""
    check_gradient(Layer(drawer(**FORMS[form]), 1).case, VOCAB)


def test_before_the_first_entry_two_branches_speak() -> None:
    """The first tokens see no whole block: compressed attention gives them exactly nothing, whatever its weights."""
    layer = Layer(drawer(compress_block=6), 2)
    tokens = torch.randint(VOCAB, (1, 9), generator=torch.Generator().manual_seed(0))
    out = layer.case.run(tokens)
    changed = {name: p + 1 if ".compressor." in name else p for name, p in layer.case.parameters.items()}
    other = Case(layer.case.graph, changed).run(tokens)
    assert torch.equal(out[:, :5], other[:, :5])
    assert not torch.isclose(out[:, 5:], other[:, 5:]).all(-1).any()


@pytest.mark.parametrize("mapping", ["minus", "plus"])
def test_mappings_choose_differently(mapping: str) -> None:
    """The signs of equation 9 matter: some token of a long row attends to other blocks."""
    tokens = torch.randint(VOCAB, (1, 40), generator=torch.Generator().manual_seed(3))
    sizes = {"compress_block": 4, "select_block": 4, "blocks": 2, "initial": 0, "scale": 1.7}
    outs = [Layer(drawer(**sizes, mapping=m), 3).case.run(tokens) for m in ("overlap", mapping)]
    assert not torch.allclose(*outs)
