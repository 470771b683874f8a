"""Parallel plans that a cluster can run, the fastest first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from archc.cost.memory import Known, memory
from archc.cost.parallel import bubble, collectives
from archc.cost.placement import routing, units
from archc.cost.report import Memory, Mode, Time
from archc.cost.setting import Parallel, Recompute, Setting
from archc.graph import Graph
from archc.ops import Workload
from archc.record import dataclass
from archc.schema import Model

TIMED = 16
"""Plans that are timed in full: those that promise most by arithmetic, waiting and bytes sent."""

LOST: dict[Recompute, float] = {"none": 0.0, "mhc": 0.03, "selective": 0.05, "full": 1 / 3}
"""What a policy of recomputation is taken to add to a step until that is timed."""

ROOM = 4096
"""Tokens of a sequence that a device keeps where cp spreads it: fewer leave little to do between messages."""

MICRO = (4, 2, 1)
"""Rows at a time that are tried, the most first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A plan, what it holds and how long a step takes; ``time`` is None where no hardware is given."""

    setting: Setting
    memory: Memory
    time: Time | None

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        p = self.setting.parallel
        ways = {n: getattr(p, n) for n in ("dp", "fsdp", "tp", "pp", "ep", "cp")}
        return {
            "parallel": ways,
            "zero": self.setting.zero,
            "recompute": self.setting.recompute,
            "micro": self.setting.micro,
            "per_device_total": self.memory.per_device["total"],
            "total_s": None if self.time is None else self.time.total_s,
            "tokens_per_s": None if self.time is None else self.time.tokens_per_s,
            "fits": self.memory.fits,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found: the plan that shares nothing, the plans that fit, how many were looked at."""

    naive: Fitted
    plans: tuple[Fitted, ...]
    tried: int


def fit(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, gpus: int, *, most: int = 10) -> Search:
    """The ``most`` best plans of ``gpus`` devices for a workload of ``w.batch`` rows, by time.

    Looked at are powers of two (and what is left of ``gpus``): tp within a domain of fast links, pp up to the layers,
    cp where a device keeps 4096 tokens of a row, ep over a domain, eight domains, and as far as experts go; ZeRO-3
    without pipeline stages, ZeRO-1 with them; in training every policy of recomputation, and up to 4 rows at a time. Of
    each layout the policy and rows that promise most are kept; the most promising layouts are timed. Raises ValueError
    where no hardware is given.
    """
    from archc.cost.count import flops

    hardware = setting.hardware
    if hardware is None:
        raise ValueError("--fit needs --hardware: how much memory a device has, and how fast it is")
    train = mode == "train"
    policies = [r for r in LOST if r != "mhc" or model.residual.kind != "add"] if train else [setting.recompute]
    arithmetic = flops(graph, w, mode, model.precision).ideal.workload_total / hardware.bf16 / gpus
    tried = 0
    found: list[tuple[float, Fitted]] = []
    for layout in _layouts(model, graph, w, train, gpus, hardware.domain):
        base = replace(setting, parallel=layout, zero=1 if layout.pp > 1 else 3)
        best = None
        for micro in _at_once(layout, base.rows(w.batch)) if train else [base.rows(w.batch)]:
            known: Known = {}
            for policy in policies:
                tried += 1
                one = replace(base, recompute=policy, micro=micro)
                held = memory(model, graph, w, mode, one, known)
                if held.fits:
                    score = _promise(one, w)
                    if best is None or score < best[0]:
                        best = (score, Fitted(setting=one, memory=held, time=None))
                    break
                part = held.per_device
                if part["total"] - part["activations"] - part["workspace"] - part["logits"] > hardware.memory:
                    break  # nothing that recomputation could help
        if best is not None:
            found.append(best)
    found = [(score + _sending(model, graph, w, mode, f) / arithmetic, f) for score, f in found]
    found.sort(key=lambda item: item[0])
    timed = [_timed(model, graph, w, mode, f) for _, f in found[:TIMED]]
    timed.sort(key=lambda f: (f.time.total_s if f.time is not None else 0.0, f.memory.per_device["total"]))
    alone = replace(setting, parallel=Parallel(dp=gpus), recompute="none", micro=1 if train else None)
    naive = Fitted(setting=alone, memory=memory(model, graph, w, mode, alone), time=None)
    return Search(naive=naive, plans=tuple(timed[:most]), tried=tried)


def _timed(model: Model, graph: Graph, w: Workload, mode: Mode, f: Fitted) -> Fitted:
    from archc.cost.time import time

    return replace(f, time=time(model, graph, w, mode, f.setting))


def _at_once(layout: Parallel, rows: int) -> list[int]:
    """Rows at a time that are worth a try: one where stages hand them on."""
    return [1] if layout.pp > 1 else [n for n in MICRO if n <= rows]


def _promise(setting: Setting, w: Workload) -> float:
    """Relative time of a step, sending left out: the fewer rows at a time, the less of a peak is reached."""
    lost = 1 + LOST[setting.recompute]
    return lost / (1 - bubble(setting, w.batch)) + 0.02 / setting.at_once(w.batch)


def _sending(model: Model, graph: Graph, w: Workload, mode: Mode, f: Fitted) -> float:
    """Seconds in which a device sends what it has to, with nothing else to do."""
    hw = f.setting.hardware
    assert hw is not None
    rates = {False: hw.link or hw.network, True: hw.network or hw.link}
    found = collectives(model, graph, w, mode, f.setting)
    return sum(c.bytes * c.count / rates[c.network] for c in found if rates[c.network])


def _layouts(model: Model, graph: Graph, w: Workload, train: bool, gpus: int, domain: int) -> Iterator[Parallel]:
    """Layouts of ``gpus`` devices of which every replica has a row."""
    experts = max((r.experts for unit in units(graph) if (r := routing(unit)) is not None), default=1)
    for tp in _powers(min(domain, gpus)):
        for pp in _powers(model.layers):
            for cp in _powers(max(1, w.new // ROOM) if train else 1):
                copies, rest = divmod(gpus, tp * pp * cp)
                if rest or copies < 1 or copies > w.batch:
                    continue
                spread = tp * cp * copies
                most = math.gcd(experts, spread)
                for ep in sorted({math.gcd(most, n) for n in (1 if most < domain else domain, 8 * domain, most)}):
                    kind = {"fsdp": copies} if train else {"dp": copies}
                    yield Parallel(**kind, tp=tp, pp=pp, ep=ep, cp=cp)


def _powers(most: int) -> Iterator[int]:
    n = 1
    while n <= most:
        yield n
        n *= 2
