"""Parallel plans: laws of stages, of what devices send, of the routes of tokens."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.cost.parallel import Collective, bubble, collectives, groups, shard_shape, stage_units, stages
from archc.cost.placement import Routing, routed, splits, units
from archc.cost.setting import Parallel, Setting, setting_of
from archc.graph import Graph
from archc.importers import load
from archc.ops import Workload
from archc.plan import plan, shrink
from archc.schema import Model

NAMES = ("llama_3_1_8b", "deepseek_v3", "deepseek_v4_flash", "gpt_oss_20b", "mixtral_8x7b")


@cache
def planned(name: str) -> tuple[Model, Graph]:
    model = load(name)
    return model, plan(model)


def setting(name: str, text: str, **fields: object) -> Setting:
    """A plan on H100s, whose domain is 8 devices."""
    made = setting_of(planned(name)[0], hardware="h100", parallel=Parallel.parse(text))
    return replace(made, **fields)  # type: ignore[arg-type]


def sent(found: tuple[Collective, ...], what: str) -> float:
    """Bytes that a device sends in all collectives of a name."""
    return sum(c.bytes * c.count for c in found if what in c.what)


W = Workload(batch=64, new=4096)
ways = st.sampled_from([1, 2, 4, 8, 16])


@pytest.mark.parametrize("name", NAMES)
def test_one_device_sends_nothing(name: str) -> None:
    for mode in ("train", "prefill", "decode"):
        assert collectives(*planned(name), W, mode, setting(name, "dp=1")) == ()


@pytest.mark.parametrize("name", NAMES)
@given(n=st.sampled_from([2, 4, 8, 16, 24, 64]))
def test_sharding_sends_what_an_all_reduce_sends_and_weights_once_more(name: str, n: int) -> None:
    """ZeRO-1 sends as a reduce-scatter and an all-gather what replicas send as an all-reduce, number by number; every
    ring sends (n - 1) / n of a tensor, on however many levels.
    """
    model, graph = planned(name)
    gradients = model.precision.gradient_bytes("matrix")
    learned = [p.spec for p in graph.parameters() if not p.spec.buffer]
    numbers = sum(math.prod(s.shape) * (4 if s.dtype == "fp32" else gradients) for s in learned)
    ring = (n - 1) / n * numbers
    replicas = collectives(model, graph, W, "train", setting(name, f"dp={n}"))
    assert sent(replicas, "(dp)") == pytest.approx(2 * ring)
    sharded = collectives(model, graph, W, "train", setting(name, f"fsdp={n}", zero=1))
    assert sent(sharded, "gradients") == pytest.approx(ring)
    both = collectives(model, graph, W, "train", setting(name, f"fsdp={n}"))
    assert sent(both, "gradients") == pytest.approx(ring)
    once = sent(sharded, "(fsdp)") - sent(sharded, "gradients")
    twice = sent(both, "(fsdp)") - sent(both, "gradients")
    assert once < twice < 2 * once  # what stands outside of layers is gathered once, layers twice


@given(dp=ways, fsdp=ways, micro=st.sampled_from([1, 2, 4]))
def test_hybrid_sharding_reduces_shards_only(dp: int, fsdp: int, micro: int) -> None:
    """Gradients are reduced over fsdp for every micro-batch, and their shards over dp once."""
    name = "llama_3_1_8b"
    found = collectives(*planned(name), W, "train", setting(name, f"dp={dp},fsdp={fsdp}", micro=micro))
    numbers = sum(math.prod(p.spec.shape) for p in planned(name)[1].parameters()) * 4
    micros = math.ceil(math.ceil(W.batch / (dp * fsdp)) / micro) if dp * fsdp > 1 else 0
    scattered = sum(c.bytes * c.count for c in found if c.kind == "reduce_scatter")
    assert scattered == pytest.approx(micros * (fsdp - 1) / fsdp * numbers)
    assert sent(found, "(dp)") == pytest.approx(2 * (dp - 1) / dp * numbers / fsdp)


@pytest.mark.parametrize("name", NAMES)
@given(tp=ways, ep=st.sampled_from([1, 2, 4, 8, 32]), fsdp=ways, dp=ways)
def test_re_sharding_conserves_parameters(name: str, tp: int, ep: int, fsdp: int, dp: int) -> None:
    """The parts that devices work with make up every parameter, and copies are what the groups say."""
    if (tp * fsdp * dp) % ep:
        return
    s = setting(name, f"dp={dp},fsdp={fsdp},tp={tp},ep={ep}")
    g = groups(s)
    stage = s.parallel.devices
    assert g.model * g.expert_shards * g.expert_copies == stage
    assert s.parallel.tp * g.shards * g.copies == stage
    split = splits(planned(name)[1])
    for p in planned(name)[1].parameters():
        part = math.prod(shard_shape(p.spec, split.get(p.value), s))
        if routed(p.spec):
            different = g.model if len(p.spec.shape) == 3 else s.parallel.ep
            parts = p.spec.shape[0] % ep == 0 and p.spec.shape[1] % g.channels == 0
        else:
            different = split[p.value].ways(tp) if p.value in split else 1
            parts = True
        if parts:
            assert part * different == math.prod(p.spec.shape), p.name


def test_heads_are_split_and_shared_latents_are_not() -> None:
    """Against Megatron-LM's layout of these layers: columns of what makes heads, rows of what projects back."""
    model, graph = planned("deepseek_v3")
    by_name = {p.name: splits(graph).get(p.value) for p in graph.parameters()}
    layer = "model.layers.0.self_attn"
    assert {
        n.removeprefix(layer + "."): s and (s.axis, s.parts) for n, s in by_name.items() if n.startswith(layer)
    } == {
        "q_a_proj.weight": None,
        "q_a_layernorm.weight": None,
        "q_b_proj.weight": (0, 128),
        "kv_a_proj_with_mqa.weight": None,
        "kv_a_layernorm.weight": None,
        "kv_b_proj.weight": (0, 128),
        "o_proj.weight": (1, 128),
    }
    llama = {p.name: splits(planned("llama_3_1_8b")[1]).get(p.value) for p in planned("llama_3_1_8b")[1].parameters()}
    keys = llama["model.layers.0.self_attn.k_proj.weight"]
    assert keys is not None and keys.ways(16) == 8  # eight key heads: two devices of 16 share one
    assert model.layers == 61


def test_an_odd_head_count_is_repeated() -> None:
    """What tp does not divide is split by what both have in common."""
    found = splits(planned("gpt_oss_20b")[1])
    query = next(s for v, s in found.items() if v.param is not None and v.param.name == "q_proj.weight")
    assert query.ways(3) == 1
    assert query.ways(12) == 4


# --- experts -------------------------------------------------------------------------------------
@given(
    groups=st.sampled_from([1, 2, 4, 8]),
    kept=st.integers(1, 8),
    active=st.integers(1, 8),
    parts=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
)
def test_a_token_reaches_as_many_parts_as_in_a_simulation(groups: int, kept: int, active: int, parts: int) -> None:
    """Against drawing groups, then experts of these, at random."""
    kept = min(kept, groups)
    experts = 64
    if active > experts // groups * kept:
        return
    route = Routing(experts=experts, active=active, width=1, groups=groups, keep=kept)
    dice = random.Random(7)
    size, total, draws = experts // groups, 0, 3000
    for _ in range(draws):
        chosen = dice.sample(range(groups), kept)
        pool = [g * size + i for g in chosen for i in range(size)]
        total += len({e * parts // experts for e in dice.sample(pool, active)})
    assert route.reached(parts) == pytest.approx(total / draws, rel=0.03)
    assert route.reached(parts) <= min(parts, active) + 1e-9


def test_v3_sends_a_token_to_at_most_four_nodes() -> None:
    """DeepSeek-V3 limits a token to 4 of 8 nodes (arXiv:2412.19437, section 3.2.2)."""
    moe = next(r for r in map(_routing, units(planned("deepseek_v3")[1])) if r is not None)
    assert 3 < moe.reached(8) <= 4
    free = replace(moe, groups=1, keep=1)
    assert free.reached(8) > 5


def _routing(unit):
    from archc.cost.placement import routing

    return routing(unit)


@given(ep=st.sampled_from([2, 4, 8, 16, 32, 64]))
def test_dispatch_grows_with_devices_and_stays_below_one_copy_for_each_choice(ep: int) -> None:
    name = "deepseek_v3"
    model, graph = planned(name)
    found = collectives(model, graph, W, "prefill", setting(name, f"fsdp=64,ep={ep}"))
    way = [c for c in found if c.what == "combine (ep)" and c.ways > 1]
    fast = sum(c.bytes for c in way if not c.network)
    row = 7168 * model.precision.activation
    tokens = W.batch // 64 * W.new
    assert fast <= tokens * min(8, ep) * row
    assert any(c.network for c in way) == (ep > 8)


# --- pipeline ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@given(pp=st.integers(1, 24))
def test_stages_are_every_layer_in_order(name: str, pp: int) -> None:
    model, graph = planned(name)
    found = stages(graph, pp)
    assert [i for stage in found for i in stage] == list(range(model.layers))
    assert len(found) == pp and all(found)
    parts = units(graph)
    held = [stage_units(parts, layers, i, pp, training=True) for i, layers in enumerate(found)]
    owned = sum(math.prod(v.param.shape) * n for stage in held for u, n in stage for v in u.params() if v.param)
    assert owned == sum(math.prod(p.spec.shape) for p in graph.parameters())


def test_no_partition_is_better_balanced() -> None:
    """Against trying every partition of a small model."""
    from archc.cost.count import node_cost

    graph = plan(shrink(load("deepseek_v4_flash")))
    parts, w = units(graph), Workload(batch=1, new=4096)

    def work(unit) -> int:
        return sum(node_cost(n, w).useful for n in unit.nodes())

    layers = [work(parts.kinds[k]) for k in parts.schedule]
    layers[0] += work(parts.first)
    layers[-1] += work(parts.last) + sum(map(work, parts.ahead))
    for pp in range(1, len(layers) + 1):
        cuts = itertools.combinations(range(1, len(layers)), pp - 1)
        best = min(max(sum(layers[a:b]) for a, b in itertools.pairwise((0, *c, len(layers)))) for c in cuts)
        assert max(sum(layers[i] for i in stage) for stage in stages(graph, pp)) == best


def test_more_stages_than_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match="pp=33 stages are more than the 32 layers"):
        stages(planned("llama_3_1_8b")[1], 33)


def test_bubbles_are_those_published() -> None:
    """1F1B: (p - 1) / m of the ideal time (arXiv:2104.04473, section 2.2.1); DualPipe table 2 of arXiv:2412.19437 with
    forward : backward : weights = 1 : 2 : 1, and nothing gained by overlap.
    """
    s = setting("llama_3_1_8b", "pp=8")
    idle = bubble(s, 32)
    assert idle / (1 - idle) == pytest.approx(7 / 32)
    idle = bubble(replace(s, schedule="dualpipe"), 32)
    assert idle / (1 - idle) == pytest.approx((8 / 2 - 1) * (3 + 2 - 3) / (3 * 32))
    assert bubble(setting("llama_3_1_8b", "dp=8"), 32) == 0


@given(pp=st.integers(2, 16), batch=st.integers(1, 512))
def test_more_micro_batches_leave_less_idle(pp: int, batch: int) -> None:
    s = setting("llama_3_1_8b", f"pp={pp}")
    assert 0 < bubble(s, batch + 1) <= bubble(s, batch) < 1
    assert bubble(replace(s, schedule="zero_bubble"), batch) < bubble(s, batch)


@given(cp=st.sampled_from([2, 4, 8]))
def test_spread_sequences_send_their_keys(cp: int) -> None:
    """Llama: keys and values of 8 heads of 128 channels in each of 32 layers, all but a device's own."""
    name = "llama_3_1_8b"
    found = collectives(*planned(name), replace(W, cached=True), "prefill", setting(name, f"cp={cp}"))
    per_token = 2 * 8 * 128 * 2 * 32
    assert sent(found, "keys (cp)") == pytest.approx((cp - 1) / cp * W.batch * W.new * per_token)


@given(tp=st.sampled_from([2, 4, 8]))
def test_tensor_parallelism_sends_as_in_megatron(tp: int) -> None:
    """Four all-reduces of the stream a layer in training without sequence parallelism, as many bytes as all-gathers and
    reduce-scatters with it (arXiv:2205.05198, section 4.2.2), and the gather of what the backward needs again.
    """
    name = "llama_3_1_8b"
    found = collectives(*planned(name), W, "train", setting(name, f"tp={tp}"))
    stream = W.batch * W.new * 4096 * 2
    around = sum(c.bytes * c.count for c in found if c.what == "the stream (tp)")
    ring = (tp - 1) / tp * stream
    assert around == pytest.approx(32 * (4 * 2 * ring + 2 * ring) + 2 * 2 * ring + ring * 0, rel=0.01)


@pytest.mark.parametrize(("given", "says"), [({"dp": 2, "ep": 8}, "ep=8 does not divide the 2"), ({"tp": 0}, "tp=0")])
def test_plans_made_in_python_are_held_to_the_same(given: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Parallel(**given)
