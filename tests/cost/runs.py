"""Published training runs, and what the default rules say of them from spec, machine and plan.

``python -m tests.cost.runs`` writes the tables of docs/cost.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from archc.cost.count import workload
from archc.cost.report import Time
from archc.cost.setting import Parallel, Setting
from archc.cost.time import time
from archc.drawers import drawer_class
from archc.graph import Graph
from archc.importers import load
from archc.plan import plan
from archc.schema import Hardware, Model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cost.md"
START, END = "<!-- written by tests/cost/runs.py -->", "<!-- end of what tests/cost/runs.py writes -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run: its plan as published, ``hours`` of a device for the tokens of the setting."""

    spec: str
    setting: Setting
    batch: int
    seq: int
    hours: float
    source: str


def machine(kind: str, **figures: float) -> Hardware:
    """A machine of the table, with other figures."""
    found = drawer_class("hardware", kind)(**figures)
    assert isinstance(found, Hardware)
    return found


V3 = Run(
    spec="deepseek_v3",
    setting=Setting(
        hardware=machine("h800"),
        parallel=Parallel(fsdp=128, pp=16, ep=64),
        zero=1,
        schedule="dualpipe",
        recompute="selective",
        micro=1,
        tokens=14_800_000_000_000,
        price=2.0,
    ),
    batch=15360,
    seq=4096,
    hours=2.664e6,
    source="arXiv:2412.19437, table 1, 3.1, 3.2, 4.2",
)
RUNS = (
    V3,
    Run(
        # The size of its cluster is not said: as many as V3's. So is how its stages wait: ZB-H1.
        spec="deepseek_v2",
        setting=Setting(
            hardware=machine("h800"),
            parallel=Parallel(fsdp=128, pp=16, ep=8),
            zero=1,
            schedule="zero_bubble",
            recompute="selective",
            micro=1,
            tokens=10**12,
        ),
        batch=9216,
        seq=4096,
        hours=172.8e3,
        source="arXiv:2405.04434, 3.1.3, 3.2.3",
    ),
    Run(
        # Its pipeline is interleaved, in how many pieces is not said: one layer each.
        spec="llama_3_1_405b",
        setting=Setting(
            hardware=machine("h100"),
            parallel=Parallel(tp=8, pp=16, fsdp=128),
            zero=2,
            chunks=8,
            micro=1,
            tokens=15_600_000_000_000,
        ),
        batch=2048,
        seq=8192,
        hours=30.84e6,
        source="arXiv:2407.21783, tables 3 to 5; the model's card",
    ),
    Run(
        # No plan is published: the devices of a node share the matrices.
        spec="llama_3_1_70b",
        setting=Setting(
            hardware=machine("h100"),
            parallel=Parallel(tp=8, fsdp=256),
            zero=2,
            micro=1,
            tokens=15_000_000_000_000,
        ),
        batch=2048,
        seq=8192,
        hours=7.0e6,
        source="the model's card",
    ),
    Run(
        spec="llama_3_1_8b",
        setting=Setting(hardware=machine("h100"), parallel=Parallel(fsdp=1024), micro=1, tokens=15_000_000_000_000),
        batch=2048,
        seq=8192,
        hours=1.46e6,
        source="the model's card",
    ),
)

OTHER_RULES: tuple[tuple[str, Setting], ...] = (
    ("the default rules", V3.setting),
    (
        "all rates as the makers state them, no core sends",
        replace(
            V3.setting,
            hardware=machine(
                "h800",
                gemm_bf16=0,
                gemm_fp8=0,
                drain=0,
                attention=0,
                attention_backward=0,
                stream=0,
                senders=0,
                link_measured=0,
                network_measured=0,
            ),
        ),
    ),
    ("products leave no cores to exchanges", replace(V3.setting, hardware=machine("h800", senders=0))),
    (
        "results of products are written while these compute",
        replace(V3.setting, hardware=machine("h800", drain=0)),
    ),
    (
        "FP8 products 1.2 times slower, as before DeepGEMM (its first README)",
        replace(V3.setting, hardware=machine("h800", gemm_fp8=1417e12 / 1.2)),
    ),
    ("stages wait as 1F1B's do, each on devices of its own", replace(V3.setting, schedule="1f1b")),
    ("nothing is computed again", replace(V3.setting, recompute="none")),
    ("all layers are computed again", replace(V3.setting, recompute="full")),
    ("the busiest experts have 1.2 times the mean", replace(V3.setting, imbalance=1.2)),
)
"""Other choices for the run of DeepSeek-V3."""


@cache
def planned(spec: str) -> tuple[Model, Graph]:
    """A spec of the library and its graph."""
    model = load(spec)
    return model, plan(model)


def timed(run: Run, setting: Setting | None = None) -> Time:
    """The time of a step of a run."""
    model, graph = planned(run.spec)
    w, _ = workload(model, "train", run.batch, run.seq, None)
    found = time(model, graph, w, "train", setting or run.setting)
    assert found is not None
    return found


def _hours(n: float | None) -> str:
    assert n is not None
    return f"{n / 1e6:.3f}M" if n >= 1e6 else f"{n / 1e3:.1f}K"


def _plan(setting: Setting) -> str:
    p = setting.parallel
    ways = ", ".join(f"{n}={v}" for n in ("dp", "fsdp", "tp", "pp", "ep", "cp") if (v := getattr(p, n)) > 1)
    return f"{ways}, ZeRO-{setting.zero}"


def tables() -> Iterator[str]:
    """The lines between the marks."""
    yield "| run | devices, plan | published hours | ours | deviation | MFU | source |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for run in RUNS:
        step, hw = timed(run), run.setting.hardware
        assert hw is not None
        assert step.gpu_hours is not None
        devices = f"{run.setting.parallel.devices:,} {hw.kind}, {_plan(run.setting)}"
        off = 100 * (step.gpu_hours / run.hours - 1)
        yield (
            f"| `{run.spec}` | {devices} | {_hours(run.hours)} | {_hours(step.gpu_hours)} | {off:+.0f} %"
            f" | {100 * step.mfu:.1f} % | {run.source} |"
        )
    yield from ("", "A step of DeepSeek-V3's run, in parts:", "")
    step = timed(V3)
    yield from ("| part | seconds | share |", "|---|---:|---:|")
    for name, seconds in ((name, seconds) for name, seconds in step.parts.items() if seconds):
        yield f"| {name} | {seconds:.3f} | {100 * seconds / step.total_s:.1f} % |"
    yield f"| total | {step.total_s:.3f} | 100.0 % |"
    yield f"| all arithmetic | {step.compute_s:.3f} | |"
    yield f"| all bytes | {step.memory_s:.3f} | |"
    yield f"| all that is sent | {step.communication_s:.3f} | |"
    yield from ("", "The same run under other rules:", "")
    yield from ("| rules | hours | deviation |", "|---|---:|---:|")
    for name, setting in OTHER_RULES:
        hours = timed(V3, setting).gpu_hours
        assert hours is not None
        yield f"| {name} | {_hours(hours)} | {100 * (hours / V3.hours - 1):+.0f} % |"


def main() -> None:
    """Writes the tables into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    text = "\n".join(tables())
    PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
