"""Where the seconds of a step come from: its largest kernels, what is sent, what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from archc.cost.count import workload
from archc.cost.explain import Term
from archc.cost.report import Report
from archc.cost.roofline import Spent
from archc.cost.setting import Setting
from archc.cost.time import Step
from archc.cost.works import Work
from archc.graph import Graph
from archc.schema import Model

SHOWN = 15
"""Kernels that are listed one by one."""


def terms(model: Model, graph: Graph, report: Report, rest: str, setting: Setting) -> Iterator[Term]:
    """The terms of ``time.<rest>``; none for what is no time of a step."""
    time, ran = report.time, report.workload
    assert time is not None
    assert setting.hardware is not None
    w, _ = workload(model, ran.mode, ran.batch, ran.seq, ran.context)
    step = Step(model, graph, w, ran.mode, setting, setting.hardware)
    if rest == "communication_s":
        yield from sent(step)
        return
    if rest in ("mfu", "tokens_per_s", "gpu_hours"):
        yield _figure(step, report, rest)
        return
    part: Callable[[Spent], float] | None = {
        "total_s": lambda s: s.total,
        "compute_s": lambda s: s.compute,
        "memory_s": lambda s: s.memory,
        "parts.compute": lambda s: s.computing,
        "parts.memory": lambda s: s.moving,
        "parts.launch": lambda s: s.launching,
    }.get(rest)
    if part is not None:
        yield from _kernels(step, part, report.value(f"time.{rest}"), time.parts if rest == "total_s" else {})


def _figure(step: Step, report: Report, rest: str) -> Term:
    """A figure that follows from the seconds of a step."""
    time, devices = report.time, step.setting.parallel.devices
    assert time is not None
    flops, tokens = report.flops.ideal.workload_total, step.w.batch * step.w.new
    if rest == "mfu":
        what = "ideal FLOPs of a step over what its devices could compute in bfloat16"
        peak = f"{devices:,} x {step.hw.bf16 / 1e12:,.1f} TFLOP/s"
        formula = f"{flops / 1e12:,.1f} TFLOP / ({time.total_s:,.4g} s x {peak})"
    elif rest == "tokens_per_s":
        what, formula = "tokens of a step over its seconds", f"{tokens:,} / {time.total_s:,.4g} s"
    else:
        what = "device-hours of a token budget"
        formula = f"{step.setting.tokens or 0:,} / {tokens:,} x {time.total_s:,.4g} s x {devices:,} / 3600"
    return Term(what=what, count=1, formula=formula, total=report.value(f"time.{rest}") or 0.0)


def sent(step: Step) -> Iterator[Term]:
    """What a device sends, and how fast."""
    for what in step.sent():
        rate = step.hw.sends(network=what.network)
        path, late = "network" if what.network else "links", step.latency(what)
        wait, one = f"{1e6 * late:g} us + " if late else "", late + what.bytes / rate
        yield Term(
            what=f"{what.kind} {what.what}, {what.ways} ways, {path}",
            count=what.count,
            formula=f"{wait}{what.bytes / 1e6:,.2f} MB / {rate / 1e9:,.0f} GB/s = {1e6 * one:,.1f} us",
            total=step.seconds(what),
        )


def _kernels(step: Step, part: Callable[[Spent], float], value: float, parts: dict[str, float]) -> Iterator[Term]:
    """The largest kernels by a part of their seconds, all others, and the parts that are no kernels."""
    found: dict[tuple[str, str, str], tuple[Work, Spent, float]] = {}
    for stage, share in step.shares():
        for group in step.parts(stage):
            for work in group.works:
                spent = step.clock.one(work, backward=group.backward)
                key = (group.step, work.what, _formula(step, work, spent))
                times = share * group.count + (found[key][2] if key in found else 0.0)
                found[key] = (work, spent, times)
    listed = sorted(found.items(), key=lambda item: -part(item[1][1]) * item[1][2])
    said = 0.0
    for (pass_, what, formula), (_, spent, times) in listed[:SHOWN]:
        total = part(spent) * times
        if not total:
            break
        said += total
        kernel = what if step.mode != "train" else f"{pass_} {what}"
        yield Term(what=kernel, count=round(times), formula=formula, total=total)
    for name in ("communication", "bubble", "optimizer", "tables"):
        if parts.get(name):
            said += parts[name]
            yield Term(what=name, count=1, formula="", total=parts[name])
    if value - said > 1e-9 * value:
        yield Term(what=f"{max(0, len(listed) - SHOWN):,} smaller kernels", count=1, formula="", total=value - said)


def _formula(step: Step, work: Work, spent: Spent) -> str:
    """What one run of a kernel does, and how long either side of it takes."""
    ways = step.clock.ways(work)
    moved = step.clock.bytes(work, ways)
    flops = {s.number: 0.0 for s in work.sums}
    for s in work.sums:
        flops[s.number] += s.flops / ways
    does = [f"{_short(n / 1e9)} GFLOP {number}" for number, n in flops.items()]
    arithmetic = f"{' + '.join(does)} {_short(1e6 * spent.compute)} us, " if does else ""
    return f"{arithmetic}{_short(moved / 1e6)} MB {_short(1e6 * spent.memory)} us"


def _short(n: float) -> str:
    """A number with one decimal where it is small."""
    return f"{n:,.0f}" if n >= 100 else f"{n:,.1f}"
