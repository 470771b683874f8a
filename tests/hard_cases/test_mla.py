"""Multi-head latent attention: expanded and in latent space, on every history of calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archc.diagnostics import ArchError
from archc.drawers.attention.mla import Mla
from archc.drawers.norm.rms import Rms
from archc.drawers.rope.rope import Rope
from archc.drawers.rope.yarn import Yarn
from archc.ops import Workload
from archc.ops.latent import crossover
from archc.plan import shrink
from archc.plan.passes import PASSES
from archc.plan.passes.absorb import absorb
from archc.resolve import load_text
from tests.hard_cases.harness import Case, build, check_flops, check_gradient, play_cached, play_packed, play_whole
from tests.oracles import mla, rope
from tests.oracles.rows import Array

VOCAB = 50
YARN = {"theta": 1000.0, "factor": 16.0, "original": 8}
WITHOUT = tuple(run for run in PASSES if run is not absorb)


def drawer(
    *,
    turns: str = "yarn",
    dim: int = 7,
    heads: int = 2,
    q_rank: int | None = 5,
    kv_rank: int = 6,
    nope: int = 4,
    v_dim: int = 3,
    bias: bool = False,
) -> Mla:
    """Small sizes; of the defaults up to 14 new tokens run in latent space."""
    ropes = {
        "none": None,
        "plain": Rope(theta=1000.0, pairs="interleaved"),
        "yarn": Yarn(**YARN, pairs="interleaved", mscale=0.7, mscale_all_dim=1.2),
    }
    return Mla(
        dim=dim,
        heads=heads,
        q_rank=q_rank,
        kv_rank=kv_rank,
        nope_dim=nope,
        rope_dim=2,
        v_dim=v_dim,
        rope=ropes[turns],
        latent_norm=Rms(),
        bias=bias,
    )


def transcription(d: Mla) -> mla.Mla:
    """The same sizes, for the transcription. Queries, keys and the scale take YaRN's corrections by its own words."""
    m, all_dim = (0.1 * weight * math.log(16.0) + 1.0 for weight in (0.7, 1.2))
    stretched = isinstance(d.rope, Yarn)
    return mla.Mla(
        heads=d.heads,
        q_rank=d.q_rank,
        kv_rank=d.kv_rank,
        nope=d.nope_dim,
        rope_dim=d.rope_dim,
        values=d.v_dim,
        scale=(all_dim**2 if stretched else 1.0) / math.sqrt(d.nope_dim + d.rope_dim),
        rope=None if d.rope is None else rope.Rope(dim=2, **(YARN if stretched else {"theta": 1000.0})),  # type: ignore[arg-type]
        magnitude=m / all_dim if stretched else 1.0,
    )


@st.composite
def layers(draw: st.DrawFn) -> Mla:
    """Odd sizes; latents narrow enough that latent space is always better, or so wide that it seldom is."""
    return drawer(
        turns=draw(st.sampled_from(["none", "plain", "yarn"])),
        dim=draw(st.sampled_from([5, 7])),
        heads=draw(st.integers(1, 3)),
        q_rank=draw(st.sampled_from([None, 4])),
        kv_rank=draw(st.sampled_from([1, 3, 6, 20])),
        nope=draw(st.integers(1, 5)),
        v_dim=draw(st.integers(1, 7)),
        bias=draw(st.booleans()),
    )


class Layer:
    """A graph of one such layer, and what the transcription says of it."""

    def __init__(self, d: Mla, seed: int, *, absorbed: bool = True) -> None:
        graph = build(
            lambda g, x: g.call("self_attn", "Mla", d.build, x, slot=True),
            dim=d.dim,
            vocab=VOCAB,
            passes=PASSES if absorbed else WITHOUT,
        )
        kinds = {node.op.kind for node, _ in graph.walk()}
        assert ("latent_attend" in kinds, "attend" in kinds) == (absorbed, not absorbed)
        self.case, self.oracle = Case.random(graph, seed), transcription(d)
        self.weights = self.case.weights("model.layers.0.self_attn.")

    def expected(self, tokens: Sequence[int], start: int) -> Array:
        return self.oracle.forward(self.weights, self.case.embedded(tokens), start)


SLOW = settings(suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), absorbed=st.booleans(), data=st.data())
def test_whole(d: Mla, seed: int, absorbed: bool, data: st.DataObject) -> None:
    layer = Layer(d, seed, absorbed=absorbed)
    play_whole(layer.case, layer.expected, data, VOCAB, most=19)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), absorbed=st.booleans(), data=st.data())
def test_chunks_ragged_and_rewound(d: Mla, seed: int, absorbed: bool, data: st.DataObject) -> None:
    layer = Layer(d, seed, absorbed=absorbed)
    play_cached(layer.case, layer.expected, data, VOCAB, most=21)


@SLOW
@given(d=layers(), seed=st.integers(0, 1 << 30), absorbed=st.booleans(), data=st.data())
def test_packed(d: Mla, seed: int, absorbed: bool, data: st.DataObject) -> None:
    layer = Layer(d, seed, absorbed=absorbed)
    play_packed(layer.case, layer.expected, data, VOCAB, most=9)


@pytest.mark.parametrize("chunks", [(30,), (1,) * 30, (20, 1, 1, 8), (3, 14, 13), (2, 15, 13)], ids=str)
@pytest.mark.parametrize("d", [drawer(), drawer(kv_rank=3, q_rank=None, heads=3)], ids=["crossing", "always absorbed"])
def test_absorbed_equals_expanded(d: Mla, chunks: tuple[int, ...]) -> None:
    layers = [Layer(d, 3, absorbed=absorbed).case for absorbed in (True, False)]
    tokens = torch.randint(VOCAB, (2, 30), generator=torch.Generator().manual_seed(0))
    caches = [case.interpreter.new_cache(2, 40, 6) for case in layers]
    for part in tokens.split(chunks, 1):
        got, want = (case.run(part, cache) for case, cache in zip(layers, caches, strict=True))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("absorbed", [True, False])
@pytest.mark.parametrize(
    ("past", "new", "cached"),
    [(0, 23, False), (0, 3, False), (0, 23, True), (11, 9, True), (11, 15, True), (15, 1, True), (5, 14, True)],
)
def test_plan_counts_what_runs(absorbed: bool, past: int, new: int, cached: bool) -> None:
    layer = Layer(drawer(), 0, absorbed=absorbed)
    check_flops(layer.case, VOCAB, batch=2, past=past, new=new, cached=cached)


def test_decoding_grows_with_the_context_by_the_latent_attention_alone() -> None:
    d = drawer(heads=3)
    case = Layer(d, 0).case
    near, far = (case.executed(Workload(batch=2, new=1, past=past, cached=True)) for past in (10, 1000))
    assert far - near == 2 * 990 * 2 * d.heads * (2 * d.kv_rank + d.rope_dim)


def test_what_a_token_keeps() -> None:
    """One latent and one rotated part, whatever the number of heads."""
    ((_, name, store),) = Layer(drawer(heads=3), 0).case.graph.states()
    assert (name, store.shape) == ("latents", (6 + 2,))


@pytest.mark.parametrize("absorbed", [True, False])
@pytest.mark.parametrize(
    "d", [drawer(bias=True), drawer(q_rank=None, turns="none", v_dim=9)], ids=["bias", "no q_rank"]
)
def test_gradient(d: Mla, absorbed: bool) -> None:
    check_gradient(Layer(d, 1, absorbed=absorbed).case, VOCAB)


HEAD = "arch 1\nmodel m { vocab = 61, dim = 16, layers = 2, context = 90, ffn = swiglu { hidden = 9 }\n"
SIZES = "heads = 128, q_rank = 1536, kv_rank = 512, nope_dim = 128, v_dim = 128"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("rope_dim = 7, rope = rope", "rope_dim = 7 channels do not form pairs"),
        ("rope_dim = 8, rope = rope { dim = 4 }", "the rope rotates 4 channels, but rope_dim is 8"),
    ],
)
def test_ropes_that_do_not_fit_are_findings(fields: str, message: str) -> None:
    with pytest.raises(ArchError) as error:
        load_text(f"{HEAD}attention = mla {{ {SIZES}, {fields} }}\n}}\n")
    assert [d.message for d in error.value.diagnostics] == [message]


def test_odd_channels_that_do_not_turn_are_fine() -> None:
    (model,) = load_text(f"{HEAD}attention = mla {{ {SIZES}, rope_dim = 7 }}\n}}\n")
    assert isinstance(model.schedule[0].attention, Mla)


def test_the_twin_has_both_forms() -> None:
    """Keys wider than values, latents wider than either, few tokens in latent space; logits of the same size."""
    (model,) = load_text(f"{HEAD}attention = mla {{ {SIZES}, rope_dim = 64, rope = rope }}\n}}\n")
    d = shrink(model).schedule[0].attention
    assert isinstance(d, Mla)
    assert d.nope_dim + d.rope_dim > d.v_dim
    assert 1 < (crossover(latent=d.kv_rank, nope=d.nope_dim, values=d.v_dim) or 0) <= 64
    assert d.scale == pytest.approx((d.nope_dim + d.rope_dim) ** -0.5)
