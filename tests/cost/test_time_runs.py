"""Published training runs, predicted by the default rules from spec, machine and plan: nothing is fitted to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archc.cost.count import count, workload
from archc.cost.report import Time
from archc.cost.setting import Parallel, Setting
from archc.cost.time import Step
from tests.cost.test_time import machine, planned

DEEPSEEK_V3 = Setting(
    hardware=machine("h800"),
    parallel=Parallel(fsdp=128, pp=16, ep=64),
    zero=1,
    schedule="dualpipe",
    recompute="selective",
    micro=1,
    tokens=14_800_000_000_000,
    price=2.0,
)
"""2048 H800, batches of 15360 sequences of 4096 tokens (arXiv:2412.19437, sections 3.1, 3.2 and 4.2)."""


def run(spec: str, setting: Setting, batch: int, seq: int) -> Time:
    model, graph = planned(spec)
    found = count(model, graph, mode="train", batch=batch, seq=seq, setting=setting).time
    assert found is not None
    return found


def test_deepseek_v3_takes_the_published_hours() -> None:
    """2.664M H800 hours of pre-training, 5.328M dollars at 2 each (arXiv:2412.19437, table 1)."""
    found = run("deepseek_v3", DEEPSEEK_V3, 15360, 4096)
    assert found.gpu_hours == pytest.approx(2.664e6, rel=0.35)
    assert found.money == pytest.approx(5.328e6, rel=0.35)
    assert found.bound == "compute"


def test_deepseek_v3_exchanges_take_about_as_long_as_its_arithmetic() -> None:
    """Communication to computation is about 1 : 1 (arXiv:2412.19437, section 3.2.1), and hides but for the ends."""
    found = run("deepseek_v3", DEEPSEEK_V3, 15360, 4096)
    assert found.communication_s == pytest.approx(found.compute_s, rel=0.35)
    assert found.parts["communication"] < 0.1 * found.total_s


def test_deepseek_v3_does_not_beat_the_machine() -> None:
    """The measured step took 19.93 s (arXiv:2505.09343, table 4): a bound of all kernels must lie below it."""
    found = run("deepseek_v3", DEEPSEEK_V3, 15360, 4096)
    assert found.total_s < 19.93
    plain = replace(DEEPSEEK_V3, hardware=machine("h800", gemm_fp8=0.0, gemm_bf16=0.0, attention=0.0, senders=0.0))
    assert run("deepseek_v3", plain, 15360, 4096).total_s < found.total_s


# Hours of a device for a run, with the plan of the paper: (spec, setting, batch, sequence, published).
OTHERS = {
    "llama_3_1_405b": (
        # 16384 H100 of 80 GB, tp 8, pp 16, dp 128, 16M tokens a batch (arXiv:2407.21783, tables 4 and 5; the stages of
        # its pipeline are interleaved, in how many pieces is not said: one layer each). 30.84M hours for 15.6T tokens.
        Setting(
            hardware=machine("h100"),
            parallel=Parallel(tp=8, pp=16, fsdp=128),
            zero=2,
            chunks=8,
            micro=1,
            tokens=15_600_000_000_000,
        ),
        2048,
        8192,
        30.84e6,
    ),
    "deepseek_v2": (
        # pp 16, ep 8, ZeRO-1, zero bubble (arXiv:2405.04434, section 3.1.3); the cluster's size is not said: 2048.
        Setting(
            hardware=machine("h800"),
            parallel=Parallel(fsdp=128, pp=16, ep=8),
            zero=1,
            schedule="zero_bubble",
            recompute="selective",
            micro=1,
            tokens=10**12,
        ),
        9216,
        4096,
        172.8e3,
    ),
}


@pytest.mark.parametrize("spec", OTHERS)
def test_other_runs_took_longer_than_the_machine_needs_and_less_than_twice_that(spec: str) -> None:
    setting, batch, seq, published = OTHERS[spec]
    hours = run(spec, setting, batch, seq).gpu_hours
    assert hours is not None
    assert hours < published < 2 * hours


def test_a_pipeline_of_two_directions_shares_the_ends() -> None:
    """DualPipe puts the first and the last stage on the same devices."""
    model, graph = planned("deepseek_v3")
    hw = machine("h800")
    w, _ = workload(model, "train", 15360, 4096, None)
    ends = {}
    for schedule in ("1f1b", "dualpipe"):
        setting = replace(DEEPSEEK_V3, schedule=schedule)
        times = Step(model, graph, w, "train", setting, hw).stage_times()
        ends[schedule] = [t.total for t in times]
    one, two = ends["1f1b"], ends["dualpipe"]
    assert two == pytest.approx([(a + b) / 2 for a, b in zip(one, reversed(one), strict=True)])
    assert sum(one) == pytest.approx(sum(two))
