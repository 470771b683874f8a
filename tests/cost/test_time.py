"""Times are never below what hardware can do, and move the way hardware and workload do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.cost.count import count, workload
from archc.cost.explain import explain
from archc.cost.report import Mode, Time
from archc.cost.setting import Parallel, Setting
from archc.cost.time import Step, time
from archc.cost.works import Forms, Work
from archc.drawers import drawer_class
from archc.graph import Graph
from archc.importers import load
from archc.ops.latent import LatentAttend
from archc.plan import plan
from archc.schema import Hardware, Model

SPECS = ("llama_3_1_8b", "deepseek_v3", "deepseek_v4_flash", "gpt_oss_20b")


@cache
def planned(spec: str) -> tuple[Model, Graph]:
    model = load(spec)
    return model, plan(model)


def machine(kind: str = "h100", **figures: Any) -> Hardware:
    found = drawer_class("hardware", kind)(**figures)
    assert isinstance(found, Hardware)
    return found


def timed(spec: str, mode: Mode, setting: Setting, **given: Any) -> Time:
    model, graph = planned(spec)
    if setting.serving or setting.cache_from or setting.speculate:
        found = count(model, graph, mode=mode, setting=setting, **given).time
    else:  # without counting memory
        w, _ = workload(model, mode, given.get("batch", 1), given.get("seq"), given.get("context"))
        found = time(model, graph, w, mode, setting)
    assert found is not None
    return found


MODES = st.sampled_from(["train", "prefill", "decode"])
CASES = st.fixed_dictionaries(
    {
        "spec": st.sampled_from(SPECS),
        "mode": MODES,
        "batch": st.sampled_from([1, 2, 16, 64]),
        "length": st.sampled_from([64, 1024, 8192]),
    }
)


def sizes(case: dict[str, Any]) -> dict[str, int]:
    """The workload's sizes: new tokens, or those of the cache."""
    return {"batch": case["batch"], "context" if case["mode"] == "decode" else "seq": case["length"]}


@given(CASES)
@settings(max_examples=25, deadline=None)
def test_no_step_is_faster_than_the_machine(case: dict[str, Any]) -> None:
    """Ideal FLOPs at the highest peak, and weights that every token reads at the maker's bandwidth, are floors."""
    hw = machine()
    model, graph = planned(case["spec"])
    report = count(model, graph, mode=case["mode"], setting=Setting(hardware=hw), **sizes(case))
    assert report.time is not None
    flops = report.flops.ideal.workload_total
    assert report.time.total_s >= flops / hw.fp8
    assert report.time.compute_s >= flops / hw.fp8
    dense = report.params.total - report.params.by_component["experts"] - report.params.by_component["embedding"]
    assert report.time.memory_s >= dense * 0.9 / hw.bandwidth
    assert report.time.total_s == pytest.approx(sum(report.time.parts.values()))


@given(CASES)
@settings(max_examples=15, deadline=None)
def test_every_kernel_takes_at_least_its_floor(case: dict[str, Any]) -> None:
    model, graph = planned(case["spec"])
    given = sizes(case)
    w, _ = workload(model, case["mode"], given["batch"], given.get("seq"), given.get("context"))
    step = Step(model, graph, w, case["mode"], Setting(hardware=machine()), machine())
    for part in step.parts(0):
        for work in part.works:
            spent = step.clock.one(work, backward=part.backward)
            assert spent.total >= step.clock.floor(work) * (1 - 1e-9), work.what


@given(CASES, st.sampled_from(["bf16", "bandwidth", "launch"]))
@settings(max_examples=25, deadline=None)
def test_a_faster_machine_is_never_slower(case: dict[str, Any], figure: str) -> None:
    plain = {"gemm_bf16": 0.0, "gemm_fp8": 0.0, "stream": 0.0, "attention": 0.0}
    slow = machine(**plain)
    fast = machine(**plain, **{figure: getattr(slow, figure) * (0.5 if figure == "launch" else 1.5)})
    a, b = (timed(case["spec"], case["mode"], Setting(hardware=hw), **sizes(case)) for hw in (slow, fast))
    assert b.total_s <= a.total_s
    if figure == "launch":
        assert b.total_s < a.total_s and b.parts["launch"] == pytest.approx(a.parts["launch"] / 2)


@given(CASES)
@settings(max_examples=25, deadline=None)
def test_more_work_takes_longer(case: dict[str, Any]) -> None:
    setting = Setting(hardware=machine())
    base = sizes(case)
    one = timed(case["spec"], case["mode"], setting, **base)
    for name in base:
        more = timed(case["spec"], case["mode"], setting, **{**base, name: 2 * base[name]})
        assert more.total_s > one.total_s * (1 - 1e-9)
    batched = timed(case["spec"], case["mode"], setting, **{**base, "batch": 2 * base["batch"]})
    assert batched.tokens_per_s >= one.tokens_per_s * (1 - 1e-9), "a larger batch never costs more per token"


@pytest.mark.parametrize("spec", SPECS)
def test_recomputation_costs_time_and_the_policies_are_in_order(spec: str) -> None:
    seconds = {
        policy: timed(spec, "train", Setting(hardware=machine(), recompute=policy), batch=4, seq=1024).total_s
        for policy in ("none", "selective", "mhc", "full")
    }
    assert seconds["none"] < seconds["mhc"] <= seconds["selective"] < seconds["full"]


def test_a_dense_train_step_has_the_time_of_its_products_by_hand() -> None:
    """Llama-3.1-8B at 8192 tokens: products of weights alone, by hand, at the measured rate; the rest comes on top."""
    hw = machine()
    layer = 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336)
    products = 6 * 8192 * (32 * layer + 4096 * 128256) / hw.gemm_bf16
    found = timed("llama_3_1_8b", "train", Setting(hardware=hw), batch=1, seq=8192)
    assert products < found.total_s < 1.6 * products


def test_decoding_a_dense_model_takes_the_time_of_its_weights_by_hand() -> None:
    """Llama-3.1-8B, one row: bfloat16 weights but the embedding's rows are read once, and the cache of 8192 tokens."""
    hw = machine(launch=0.0)
    weights = 2 * (8_030_261_248 - 128256 * 4096)
    cache = 8192 * 2 * 8 * 128 * 2 * 32
    found = timed("llama_3_1_8b", "decode", Setting(hardware=hw), batch=1, context=8192)
    assert found.total_s == pytest.approx((weights + cache) / hw.stream, rel=0.01)
    assert found.bound == "memory"


def test_tensor_parallelism_divides_the_work_and_adds_waiting() -> None:
    one = timed("llama_3_1_70b", "decode", Setting(hardware=machine()), batch=8, context=4096)
    eight = timed(
        "llama_3_1_70b", "decode", Setting(hardware=machine(), parallel=Parallel(tp=8)), batch=8, context=4096
    )
    assert eight.parts["memory"] == pytest.approx(one.parts["memory"] / 8, rel=0.1)
    assert eight.parts["launch"] == one.parts["launch"]
    assert eight.parts["communication"] > 0 == one.parts["communication"]


# --- latent attention ------------------------------------------------------------------------------
def latent(setting: Setting, mode: Mode = "decode", **given: Any) -> tuple[Step, list[Work]]:
    """What the latent attention of a layer of DeepSeek-V3 runs forward."""
    model, graph = planned("deepseek_v3")
    w, _ = workload(model, mode, given.get("batch", 1), given.get("seq"), given.get("context"))
    assert setting.hardware is not None
    step = Step(model, graph, w, mode, setting, setting.hardware)
    layer = next(part for part in step.parts(0) if part.unit.layers and part.step == "forward")
    return step, [work for work in layer.works if isinstance(work.main.op, LatentAttend)]


def test_decoding_by_latents_takes_the_time_of_their_arithmetic_by_hand() -> None:
    """As FlashMLA does: 128 heads, 576 channels of scores and 512 of values a key, 1152 bytes of a token in the cache;
    what maps queries and values has the weight once between them, 512 x 128 x (128 + 128) in FP8 with its scales.
    """
    context, hw = 163_840, machine(launch=0.0)
    step, works = latent(Setting(hardware=hw), context=context)
    attend = step.clock.one(next(work for work in works if "attend" in work.stage))
    assert attend.compute == pytest.approx(2 * 128 * (576 + 512) * context / hw.attention, rel=1e-6)
    assert attend.memory == pytest.approx(1152 * context / hw.stream, rel=2e-3)
    maps = sum(step.clock.one(work).memory for work in works if "attend" not in work.stage)
    assert maps == pytest.approx(512 * 128 * 256 * (1 + 4 / 128**2) / hw.stream, rel=0.03)
    assert all("in latent space" in work.stage for work in works) and len(works) == 3


@given(
    st.sampled_from([1, 2, 16, 64, 512, 4096]),
    st.sampled_from([0, 1, 100, 4096, 100_000]),
    st.sampled_from([1, 8]),
    st.sampled_from([1, 4]),
)
@settings(max_examples=30, deadline=None)
def test_latent_attention_has_arithmetic_and_bytes_of_one_form(new: int, past: int, batch: int, tp: int) -> None:
    """Either keys and values of all tokens are made and read (128 heads of 128 + 128, bfloat16), or every pair takes
    576 + 512 channels a head; of both the faster.
    """
    setting = Setting(hardware=machine(), parallel=Parallel(tp=tp))
    step, works = latent(setting, "prefill", batch=batch, seq=new, context=past + new)
    keys, pairs = batch * (past + new), batch * sum(range(past + 1, past + new + 1))
    flops = sum(s.flops for work in works for s in work.sums if s.engine == "attention")
    moved = sum(work.read + work.written for work in works)
    if all("expanded" in work.stage for work in works):
        assert flops == 2 * 128 * pairs * (192 + 128)
        assert moved >= 2 * keys * 128 * 256 * 2
    else:
        assert flops == 2 * 128 * pairs * (576 + 512)
    forms = next(
        item
        for items in step.amounts.forward.values()
        for item in items
        if isinstance(item, Forms) and item.ways[0][0].kernel is works[0].kernel
    )
    for form in forms.ways:
        assert step.clock.spent(works).total <= step.clock.spent(form).total * (1 + 1e-9)


def test_every_device_of_tp_reads_all_latents() -> None:
    """Heads share them: eight devices have an eighth of the scores each, and all of the cache."""
    step, works = latent(Setting(hardware=machine(), parallel=Parallel(tp=8)), context=32_768)
    attend = step.clock.one(next(work for work in works if "attend" in work.stage))
    assert attend.memory >= 1152 * 32_768 / machine().stream
    one, alone = latent(Setting(hardware=machine()), context=32_768)
    assert attend.compute == pytest.approx(
        one.clock.one(next(work for work in alone if "attend" in work.stage)).compute / 8
    )


# --- latency -------------------------------------------------------------------------------------
def test_each_exchange_takes_its_latency() -> None:
    """80 layers of two sums over devices each, and the embedding's: gathered and scattered."""
    plan = Setting(parallel=Parallel(tp=8))
    fast, slow = (
        timed("llama_3_1_70b", "decode", replace(plan, hardware=machine(link_latency=t)), context=4096)
        for t in (0.0, 1e-5)
    )
    more = (slow.communication_s - fast.communication_s) / 1e-5
    assert 2 * 2 * 80 <= round(more) <= 2 * 2 * 80 + 4
    assert slow.total_s - fast.total_s == pytest.approx(slow.communication_s - fast.communication_s)


@pytest.mark.parametrize(
    ("kind", "plan", "said"),
    [
        ("h100", Parallel(tp=8), "3 us over fast links beside its bytes."),
        ("h100", Parallel(dp=16, ep=16), "latency over the network is left out"),
        ("b200", Parallel(tp=8), "decoding on so many devices takes longer than this"),
    ],
)
def test_what_is_not_known_of_latency_is_said(kind: str, plan: Parallel, said: str) -> None:
    model, graph = planned("deepseek_v3")
    setting = Setting(hardware=machine(kind), parallel=plan)
    report = count(model, graph, batch=16, context=4096, setting=setting)
    assert any(said in line for line in report.assumptions)


def test_replicas_share_rows_and_keep_the_pace() -> None:
    base = Setting(hardware=machine())
    one = timed("llama_3_1_8b", "prefill", base, batch=4, seq=1024)
    four = timed("llama_3_1_8b", "prefill", replace(base, parallel=Parallel(dp=4)), batch=16, seq=1024)
    assert four.total_s == pytest.approx(one.total_s)
    assert four.tokens_per_s == pytest.approx(4 * one.tokens_per_s)
    assert four.mfu == pytest.approx(one.mfu)


def test_a_machine_of_which_no_network_is_known_says_so() -> None:
    setting = Setting(hardware=machine("mi300x"), parallel=Parallel(dp=16))
    with pytest.raises(ValueError, match=r"no rate is known .* give it in the spec"):
        timed("llama_3_1_8b", "train", setting, batch=16, seq=512)


def test_a_budget_of_tokens_costs_hours_and_money() -> None:
    setting = Setting(hardware=machine(), tokens=10**12, price=2.0, parallel=Parallel(dp=2))
    found = timed("llama_3_1_8b", "train", setting, batch=2, seq=4096)
    assert found.gpu_hours == pytest.approx(2 * 1e12 / found.tokens_per_s / 3600)
    assert found.money == pytest.approx(2 * (found.gpu_hours or 0))
    assert found.days == pytest.approx((found.gpu_hours or 0) / 48)


# --- taken apart ---------------------------------------------------------------------------------
APART = ("total_s", "compute_s", "memory_s", "communication_s", "parts.compute", "parts.memory", "parts.launch", "mfu")


@pytest.mark.parametrize("key", APART)
@pytest.mark.parametrize(
    ("spec", "mode", "setting", "sizes"),
    [
        ("deepseek_v3", "train", Setting(hardware=machine("h800"), parallel=Parallel(pp=4, ep=8, fsdp=8)), (64, 4096)),
        (
            "deepseek_v3",
            "train",
            Setting(hardware=machine("h800"), parallel=Parallel(pp=4, dp=2), schedule="dualpipe", recompute="full"),
            (16, 1024),
        ),
        ("deepseek_v4_flash", "prefill", Setting(hardware=machine(), parallel=Parallel(tp=4, pp=2)), (4, 2048)),
        ("llama_3_1_8b", "decode", Setting(hardware=machine()), (8, 1)),
    ],
)
def test_the_terms_of_a_time_sum_to_it(
    spec: str, mode: Mode, setting: Setting, sizes: tuple[int, int], key: str
) -> None:
    model, graph = planned(spec)
    batch, seq = sizes
    context = 4096 if mode == "decode" else None
    report = count(model, graph, mode=mode, batch=batch, seq=seq, context=context, setting=setting)
    found = explain(model, graph, report, f"time.{key}", setting)
    assert sum(term.total for term in found.terms) == pytest.approx(found.value, rel=1e-6)
    if key == "total_s":
        assert len(found.terms) > 5
