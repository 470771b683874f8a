"""Memory by part: against published plans, FSDP2's shards, ZeRO's arithmetic, and laws of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.cost.activations import activations
from archc.cost.count import count
from archc.cost.memory import in_flight, ledger
from archc.cost.parallel import stages
from archc.cost.report import Memory, Mode
from archc.cost.setting import Parallel, Setting, setting_of
from archc.cost.shards import rank_shapes
from archc.graph import Graph
from archc.importers import load
from archc.ops import Workload
from archc.plan import plan
from archc.schema import Model

NAMES = ("llama_3_1_8b", "deepseek_v3", "deepseek_v4_flash", "gpt_oss_20b")
NONE: Mapping[str, str] = MappingProxyType({})


@cache
def _planned(name: str, sets: tuple[tuple[str, str], ...]) -> tuple[Model, Graph]:
    model = load(name, set=dict(sets))
    return model, plan(model)


def planned(name: str, sets: Mapping[str, str] = NONE) -> tuple[Model, Graph]:
    return _planned(name, tuple(sets.items()))


def setting(name: str, text: str = "dp=1", hardware: str | None = "h100", **fields: object) -> Setting:
    made = setting_of(planned(name)[0], hardware=hardware, parallel=Parallel.parse(text))
    return replace(made, **fields)  # type: ignore[arg-type]


def memory(
    name: str, mode: Mode, s: Setting, batch: int = 1, seq: int | None = None, sets: Mapping[str, str] = NONE
) -> Memory:
    found = count(*planned(name, sets), mode=mode, batch=batch, seq=seq, setting=s).memory
    assert found is not None
    return found


# --- against what is published -------------------------------------------------------------------
def test_mixed_precision_training_takes_sixteen_or_eighteen_bytes_a_parameter() -> None:
    """16: weights and gradients in 16 bits, master copy and two moments in float32 (ZeRO, arXiv:1910.02054, 3.1);
    18: gradients in float32 (Megatron-LM).
    """
    n = 8_030_261_248
    wide = memory("llama_3_1_8b", "train", setting("llama_3_1_8b"))
    assert (wide.weights, wide.gradients, wide.optimizer, wide.master) == (2 * n, 4 * n, 12 * n, 4 * n)
    short = memory("llama_3_1_8b", "train", setting("llama_3_1_8b"), sets={"precision.gradients": "bf16"})
    assert short.weights + short.gradients + short.optimizer == 16 * n
    single = memory("llama_3_1_8b", "train", setting("llama_3_1_8b"), sets={"precision": "fp32"})
    assert (single.weights, single.gradients, single.optimizer, single.master) == (4 * n, 4 * n, 8 * n, 0)


@pytest.mark.parametrize("ways", [8, 64])
def test_zero_divides_as_in_its_paper(ways: int) -> None:
    """arXiv:1910.02054, figure 1: 2 + 2 + 12 / N bytes a parameter, 2 + 14 / N, 16 / N."""
    n = 8_030_261_248
    for zero, of_one in ((1, 4 + 12 / ways), (2, 2 + 14 / ways), (3, 16 / ways)):
        s = setting("llama_3_1_8b", f"fsdp={ways}", zero=zero)
        part = memory("llama_3_1_8b", "train", s, batch=ways, sets={"precision.gradients": "bf16"}).per_device
        assert part["weights"] + part["gradients"] + part["optimizer"] == pytest.approx(of_one * n, rel=1e-3)


def test_kimi_k2_has_the_bytes_that_its_report_states() -> None:
    """arXiv:2507.20534, section 2.4.2: weights in bfloat16 and gradients in float32 take about 6 TB, on 256 devices
    (16 stages, 16-way experts); about 30 GB a device hold all states, those of the optimizer spread so widely that they
    are negligible.
    """
    sets = {"precision.working": "bf16"}
    whole = memory("kimi_k2", "train", setting("kimi_k2"), sets=sets)
    assert whole.weights + whole.gradients == pytest.approx(6e12, rel=0.03)
    s = setting("kimi_k2", "pp=16,fsdp=128,ep=16", zero=1)
    part = memory("kimi_k2", "train", s, batch=1024, sets=sets).per_device
    assert part["weights"] + part["gradients"] == pytest.approx(30e9, rel=0.05)


def test_deepseek_v3_fits_as_it_was_trained() -> None:
    """DeepSeek-V3: 16 stages, 64-way experts over 8 nodes, ZeRO-1, no tensor parallelism (arXiv:2412.19437, section
    3.2), on devices of 80 GB: what it holds whatever runs leaves most of a device to activations, on every stage.
    """
    s = setting("deepseek_v3", "pp=16,fsdp=128,ep=64", "h800", zero=1, schedule="dualpipe")
    part = memory("deepseek_v3", "train", s, batch=15_360).per_device
    assert part["weights"] + part["gradients"] + part["optimizer"] < 40e9
    alone = memory("deepseek_v3", "train", setting("deepseek_v3", hardware="h800"))
    assert alone.fits is False


def test_the_first_stages_of_zero_cut_numbers_in_a_row() -> None:
    """Of N replicas each keeps 1/N of all states (arXiv:1910.02054, 5.1), though only four experts of a layer are on a
    device, which 32 replicas share. FSDP2 cuts the first dimension: a whole expert is the least that one can keep.
    """
    devices = 2048
    for zero in (1, 2):
        s = setting("deepseek_v3", f"fsdp={devices},ep=64", zero=zero)
        part = memory("deepseek_v3", "train", s, batch=devices)
        assert part.per_device["optimizer"] == pytest.approx(part.optimizer / devices, rel=1e-6)
        if zero == 2:
            assert part.per_device["gradients"] == pytest.approx(part.gradients / devices, rel=1e-6)
    whole = memory("deepseek_v3", "train", setting("deepseek_v3", f"fsdp={devices},ep=64"), batch=devices)
    assert whole.per_device["optimizer"] > 7 * part.per_device["optimizer"]


def test_components_of_a_micro_batch_add_up() -> None:
    for policy in ("none", "full"):
        found = memory("deepseek_v3", "train", setting("deepseek_v3", recompute=policy), batch=2, seq=256)
        assert sum(found.activations_by_component.values()) == found.activations + found.logits
        spread = memory("deepseek_v3", "train", setting("deepseek_v3", "fsdp=4,cp=2", recompute=policy), 8, 512)
        assert spread.activations_by_component["experts"] == 2 * found.activations_by_component["experts"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("llama_3_1_8b", "ep=8,dp=8", "no experts"),
        ("mixtral_8x7b", "ep=16,dp=16", "more than the 8 experts"),
        ("llama_3_1_8b", "pp=64", "64 stages are more than the 32 layers"),
    ],
)
def test_what_a_model_cannot_give_is_refused(name: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        memory(name, "decode", setting(name, text))


@pytest.mark.parametrize(
    ("name", "text", "fields", "words"),
    [
        ("llama_3_1_8b", "dp=8", {}, "1 row for 8 replicas: 7 of them have nothing to do"),
        ("llama_3_1_8b", "tp=16", {}, "tp=16 can split k_proj, v_proj 8 ways; every part is repeated 2 times"),
        ("deepseek_v3", "tp=8", {}, "tp=8 repeats q_a_proj, kv_a_proj_with_mqa, gate, eh_proj on every device"),
        ("llama_3_1_8b", "dp=1", {"zero": 1}, "there is nothing to shard"),
        ("llama_3_1_8b", "dp=1", {"recompute": "full"}, "every layer keeps what goes into it and runs again"),
    ],
)
def test_what_does_less_than_it_says_is_said(name: str, text: str, fields: dict[str, object], words: str) -> None:
    report = count(*planned(name), mode="train", seq=64, setting=setting(name, text, **fields))
    assert any(words in line for line in report.assumptions)


# --- against FSDP2 -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ways", [2, 4, 24])
def test_a_device_holds_the_shards_of_fsdp2(name: str, ways: int) -> None:
    """`rank_shapes` is tested against processes that run FSDP2: its shapes in float32 are this plan's bytes."""
    sets = {"precision": "fp32", "optimizer": "adamw"}
    model, graph = planned(name, sets)
    s = setting(name, f"fsdp={ways}")
    found = memory(name, "train", s, batch=ways, sets=sets)
    shards = [rank_shapes(graph, ways, rank) for rank in range(ways)]
    held = [sum(math.prod(shape) for shape in of_rank.values()) for of_rank in shards]
    buffers = sum(
        math.prod(p.spec.shape) * (8 if p.spec.dtype == "int" else 4) for p in graph.parameters() if p.spec.buffer
    )
    assert found.per_device["gradients"] == 4 * max(held) == 4 * held[0]
    assert found.per_device["weights"] == 4 * held[0] + buffers
    assert found.per_device["optimizer"] == 8 * held[0]
    assert found.weights == 4 * sum(held) + ways * buffers
    assert found.optimizer == 8 * sum(held)
    assert model.precision.kind == "fp32"


# --- laws ----------------------------------------------------------------------------------------
plans = st.sampled_from(
    [
        "dp=1",
        "dp=4",
        "fsdp=8",
        "tp=8",
        "tp=2,ep=4,fsdp=4",
        "pp=4",
        "pp=8,fsdp=4,ep=4",
        "cp=4",
        "dp=2,fsdp=2,tp=2,pp=2,cp=2",
    ]
)
modes = st.sampled_from(["train", "prefill", "decode"])


@pytest.mark.parametrize("name", NAMES)
@given(text=plans, mode=modes, batch=st.sampled_from([1, 8, 64]), zero=st.sampled_from([1, 2, 3]))
def test_parts_add_up(name: str, text: str, mode: Mode, batch: int, zero: int) -> None:
    if "ep=" in text and name == "llama_3_1_8b":
        return  # refused: there are no experts
    s = setting(name, text, zero=zero)
    found = memory(name, mode, s, batch=batch, seq=256)
    parts = dict(found.per_device)
    assert parts.pop("total") == sum(parts.values())
    assert sum(found.weights_by_format.values()) == pytest.approx(found.weights, abs=10)
    assert sum(found.kv_cache_by_tier.values()) == found.kv_cache
    assert found.fits == (found.per_device["total"] <= 80e9)
    for section, of_all in (("weights", found.weights), ("gradients", found.gradients), ("optimizer", found.optimizer)):
        assert found.per_device[section] <= of_all + 1
    if mode != "train":
        assert (found.gradients, found.optimizer, found.activations) == (0, 0, 0)
    assert (found.kv_cache > 0) == (mode != "train")


@pytest.mark.parametrize("name", NAMES)
@given(batch=st.integers(1, 9), context=st.sampled_from([256, 4096]))
def test_the_cache_of_one_device_is_the_cache(name: str, batch: int, context: int) -> None:
    report = count(*planned(name), mode="decode", batch=batch, context=context, setting=setting(name))
    assert report.memory is not None
    assert report.memory.kv_cache == report.memory.per_device["kv_cache"] == report.kv_cache.bytes_total


def test_heads_of_a_cache_are_split_and_latents_are_not() -> None:
    """tp=8 leaves each device one of Llama's eight key heads, and all of V3's latents."""
    for name, ways in (("llama_3_1_8b", 8), ("deepseek_v3", 1)):
        whole, part = (
            memory(name, "decode", setting(name, text), batch=4).per_device["kv_cache"] for text in ("dp=1", "tp=8")
        )
        assert part == pytest.approx(whole / ways, rel=1e-6)


def test_a_cache_may_lie_elsewhere() -> None:
    found = memory("llama_3_1_8b", "decode", setting("llama_3_1_8b", cache="host"))
    on = memory("llama_3_1_8b", "decode", setting("llama_3_1_8b"))
    assert found.kv_cache == on.kv_cache == found.host == found.kv_cache_by_tier["host"]
    assert found.per_device["kv_cache"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_one_device_keeps_what_a_forward_keeps(name: str) -> None:
    model, graph = planned(name)
    kept = activations(graph, Workload(batch=2, new=512, act=model.precision.activation))
    found = memory(name, "train", setting(name), batch=2, seq=512)
    assert found.activations + found.logits == kept.kept
    assert found.logits == kept.logits


@given(pp=st.sampled_from([2, 4, 8]), batch=st.integers(1, 64))
def test_early_stages_keep_more_micro_batches(pp: int, batch: int) -> None:
    """1F1B: a stage has forwards under way until the first comes back."""
    s = setting("llama_3_1_8b", f"pp={pp}")
    live = [in_flight(s, stage, batch) for stage in range(pp)]
    assert live == [min(batch, pp - stage) for stage in range(pp)]
    w = Workload(batch=batch, new=512)
    model, graph = planned("llama_3_1_8b")
    of_layer = activations(graph, replace(w, batch=1)).layers[5]
    cut = stages(graph, pp)
    for stage, entries in enumerate(ledger(model, graph, w, "train", s)):
        kept = sum(e.count * e.device for e in entries if e.section == "activations" and e.what != "outside of layers")
        assert kept == pytest.approx(live[stage] * len(cut[stage]) * of_layer, rel=0.01)


@given(ways=st.sampled_from([2, 4, 8, 16]))
def test_more_shards_never_take_more(ways: int) -> None:
    for name in NAMES:
        few, many = (
            memory(name, "train", setting(name, f"fsdp={n}"), batch=64, seq=256).per_device for n in (ways, 2 * ways)
        )
        assert all(many[section] <= few[section] for section in ("weights", "gradients", "optimizer"))


def test_interleaved_chunks_keep_more_of_the_first_stage() -> None:
    """Megatron-LM's 1 + (p - 1) / (p m) of a whole pipeline (arXiv:2205.05198, section 4.2.3)."""
    s = setting("llama_3_1_8b", "pp=8", chunks=2)
    assert in_flight(s, 0, 64) == pytest.approx(8 * (1 + 7 / (8 * 2)))
    assert in_flight(s, 7, 64) == pytest.approx((8 + 1) / 2)


def test_imbalance_fills_the_busiest_device() -> None:
    name = "deepseek_v3"
    even, busy = (
        memory(name, "train", setting(name, "fsdp=64,ep=64", imbalance=x), batch=64).per_device for x in (1.0, 1.5)
    )
    assert even["activations"] < busy["activations"] < 1.5 * even["activations"]
    assert busy["buffers"] > even["buffers"]
