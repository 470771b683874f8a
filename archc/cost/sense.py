"""What a setting asks for that a model cannot give, and what of a plan does less than it says."""

from __future__ import annotations

from collections.abc import Iterator

from archc.cost.placement import routed, routing, splits, units
from archc.cost.report import Mode
from archc.cost.setting import Setting
from archc.graph import Graph
from archc.ops import Workload


def refuse(graph: Graph, setting: Setting) -> None:
    """Raises ValueError for experts that are spread further than there are any."""
    ep = setting.parallel.ep
    if ep == 1:
        return
    there = [r.experts for unit in units(graph) if (r := routing(unit)) is not None]
    if not there:
        raise ValueError(f"ep={ep}: the model has no experts to spread")
    if ep > min(there):
        raise ValueError(f"ep={ep} is more than the {min(there)} experts of a layer")


def notes(graph: Graph, w: Workload, mode: Mode, setting: Setting) -> Iterator[str]:
    """Conventions of memory under a setting, and what of its plan has nothing to do."""
    p = setting.parallel
    if mode == "train":
        again = {
            "none": "activations are kept for the backward",
            "selective": "what matrix products and attention give is kept for the backward, all else runs again",
            "full": "every layer keeps what goes into it and runs again in the backward",
            "mhc": "the residual path runs again in the backward, block by block; all else is kept",
        }[setting.recompute]
        yield f"memory: {again} (recompute {setting.recompute}); nothing is cached."
        if p.fsdp > 1:
            yield {
                1: "zero 1: fsdp cuts states of the optimizer into equal parts, number by number.",
                2: "zero 2: fsdp cuts gradients and states of the optimizer into equal parts, number by number.",
                3: "zero 3: fsdp cuts parameters, gradients and states by their first dimension, as FSDP2 does.",
            }[setting.zero]
        elif setting.zero < 3:
            yield f"zero {setting.zero}: there is nothing to shard, for fsdp is 1."
    replicas = p.dp * p.fsdp
    if w.batch < replicas:
        rows = f"{w.batch:,} row{'s' * (w.batch > 1)}"
        yield f"plan: {rows} for {replicas:,} replicas: {replicas - w.batch:,} of them have nothing to do."
    if p.tp > 1:
        yield from _repeated(graph, p.tp)


def _repeated(graph: Graph, tp: int) -> Iterator[str]:
    """The matrices that devices of tp have in common."""
    split = splits(graph)
    parts: dict[int, list[str]] = {}
    for found in graph.parameters():
        spec = found.spec
        if len(spec.shape) != 2 or spec.buffer or routed(spec) or spec.role == "table":
            continue
        ways = split[found.value].ways(tp) if found.value in split else 1
        if ways < tp:
            name = found.name.removesuffix(".weight").rpartition(".")[2]
            if name not in parts.setdefault(ways, []):
                parts[ways].append(name)
    whole = parts.pop(1, [])
    for ways, names in sorted(parts.items()):
        yield f"plan: tp={tp} can split {_listed(names)} {ways} ways; every part is repeated {tp / ways:g} times."
    if whole:
        yield f"plan: tp={tp} repeats {_listed(whole)} on every device."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
