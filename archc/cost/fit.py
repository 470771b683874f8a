"""Parallel plans that a cluster can run, the fastest first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from archc.cost.memory import Known, memory
from archc.cost.parallel import bubble, groups, stage_units, stages
from archc.cost.placement import routing, units
from archc.cost.report import Memory, Mode, Time
from archc.cost.setting import Parallel, Recompute, Setting
from archc.graph import Graph
from archc.ops import Workload
from archc.record import dataclass
from archc.schema import Hardware, Model

if TYPE_CHECKING:
    from archc.cost.time import Step

STATES = ("weights", "gradients", "optimizer")
"""What a device holds whatever is computed again, and however many rows run at a time."""

POLICIES: tuple[Recompute, ...] = ("none", "mhc", "selective", "full")

ROOM = 4096
"""Tokens of a sequence that a device keeps where cp spreads it: fewer leave little to do between messages."""

MICRO = (4, 2, 1)
"""Rows at a time that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A plan, what it holds and how long a step takes; ``time`` is None where that was not asked for."""

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
    """What a search found: the plan that shares nothing, the fastest plans that fit, how many it chose from, and how
    many of these it had to time.
    """

    naive: Fitted
    plans: tuple[Fitted, ...]
    tried: int
    timed: int


def fit(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, gpus: int, *, most: int = 10) -> Search:
    """The ``most`` fastest layouts of ``gpus`` devices for a workload of ``w.batch`` rows, each with what suits it.

    Branch and bound over `candidates`: each has a time that it cannot beat (`Floors`). They are looked at in the order
    of these, until none that is left can be among the fastest; what is slower than another that fits is left out.
    Raises ValueError where no hardware is given.
    """
    if setting.hardware is None:
        raise ValueError("--fit needs --hardware: how much memory a device has, and how fast it is")
    floors = Floors(model, graph, w, mode, setting.hardware)
    queue = sorted(((floors.of(one), i, one) for i, one in enumerate(candidates(model, graph, w, mode, setting, gpus))))
    checked = _Checked(model, graph, w, mode, setting.hardware)
    best: dict[Parallel, Fitted] = {}
    timed, bar = 0, math.inf
    for floor, _, one in queue:
        if floor >= bar:
            break
        known = best.get(one.parallel)
        if known is not None and floor > _order(known)[0]:
            continue
        held = checked.memory(one)
        if held is None:
            continue
        timed += 1
        found = Fitted(setting=one, memory=held, time=floors.step(one).time())
        if known is None or _order(found) < _order(known):
            best[one.parallel] = found
            if len(best) >= most:
                bar = sorted(_order(f)[0] for f in best.values())[most - 1]
    train = mode == "train"
    alone = replace(setting, parallel=Parallel(dp=gpus), recompute="none", micro=1 if train else None)
    naive = Fitted(setting=alone, memory=memory(model, graph, w, mode, alone), time=None)
    plans = sorted((checked.lighter(f, floors) for f in sorted(best.values(), key=_order)[:most]), key=_order)
    return Search(naive=naive, plans=tuple(plans), tried=len(queue), timed=timed)


def _order(f: Fitted) -> tuple[float, int]:
    assert f.time is not None
    return f.time.total_s, f.memory.per_device["total"]


# --- what there is to choose from ----------------------------------------------------------------
def candidates(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, gpus: int) -> Iterator[Setting]:
    """Layouts of ``gpus`` devices of which every replica has a row, in training with every policy of recomputation,
    ZeRO 1 to 3, and up to 4 rows at a time.

    tp, pp and cp are powers of two: tp within a domain of fast links, pp up to the layers, cp where a device keeps 4096
    tokens of a row. ep is whatever divides both the experts and the devices of a stage; the rest is fsdp in training,
    dp where a model is served.
    """
    assert setting.hardware is not None
    train = mode == "train"
    policies = [r for r in POLICIES if r != "mhc" or model.residual.kind != "add"] if train else [setting.recompute]
    for layout in _layouts(model, graph, w, train, gpus, setting.hardware.domain):
        base = replace(setting, parallel=layout)
        rows = base.rows(w.batch)
        levels: tuple[Literal[1, 2, 3], ...] = (1, 2, 3) if train and layout.fsdp * layout.cp > 1 else (3,)
        for zero in levels:
            for micro in [n for n in MICRO if n <= rows] if train else [rows]:
                for policy in policies:
                    yield replace(base, zero=zero, recompute=policy, micro=micro)


def _layouts(model: Model, graph: Graph, w: Workload, train: bool, gpus: int, domain: int) -> Iterator[Parallel]:
    experts = math.gcd(*(r.experts for unit in units(graph) if (r := routing(unit)) is not None)) or 1
    for tp in _powers(min(domain, gpus)):
        for pp in _powers(model.layers):
            for cp in _powers(max(1, w.new // ROOM)):
                copies, rest = divmod(gpus, tp * pp * cp)
                if rest or copies < 1 or copies > w.batch:
                    continue
                most = math.gcd(experts, tp * cp * copies)
                for ep in (n for n in range(1, most + 1) if most % n == 0):
                    kind = {"fsdp": copies} if train else {"dp": copies}
                    yield Parallel(**kind, tp=tp, pp=pp, ep=ep, cp=cp)


def _powers(most: int) -> Iterator[int]:
    n = 1
    while n <= most:
        yield n
        n *= 2


# --- what none of them can beat ------------------------------------------------------------------
class Floors:
    """Seconds that a step takes at least: all that its busiest stage computes and moves, and waiting for other stages.
    What devices send, and the optimizer, come on top. Works are timed once for all settings in which they are alike.
    """

    def __init__(self, model: Model, graph: Graph, w: Workload, mode: Mode, hardware: Hardware) -> None:
        self.model, self.graph, self.w, self.hw = model, graph, w, hardware
        self.mode: Mode = mode
        self._steps: dict[tuple, Step] = {}
        self._stages: dict[tuple, tuple[float, float]] = {}

    def step(self, setting: Setting) -> Step:
        """A step in a setting."""
        from archc.cost.time import Step

        alike = self._alike(setting)
        step = Step(self.model, self.graph, self.w, self.mode, setting, self.hw, self._steps.get(alike))
        return self._steps.setdefault(alike, step) and step

    def _alike(self, setting: Setting) -> tuple:
        """What settings have in common in which every kernel takes as long."""
        p = setting.parallel
        batch = self.w.batch
        return p.tp, p.cp, p.ep, groups(setting).model, setting.at_once(batch), setting.micros(batch) > 1

    def of(self, setting: Setting) -> float:
        """The floor of a setting."""
        key = *self._alike(setting), setting.parallel.pp, setting.recompute
        if key not in self._stages:
            found = self._seconds(setting)
            self._stages[key] = max(found), sum(found)
        busiest, every = self._stages[key]
        micros = setting.micros(self.w.batch)
        if self.mode != "train":
            return busiest * (micros - 1) + every
        return busiest * micros / (1 - bubble(setting, self.w.batch))

    def _seconds(self, setting: Setting) -> list[float]:
        """Seconds of a micro-batch on the devices of each stage."""
        step, parts, pp = self.step(setting), units(self.graph), setting.parallel.pp
        train = self.mode == "train"
        same: dict[tuple, float] = {}
        found: list[float] = []
        for stage, layers in enumerate(stages(self.graph, pp)):
            held_by = stage_units(parts, layers, stage, pp, training=train)
            kind = stage == 0, stage == pp - 1, *((id(unit), times) for unit, times in held_by)
            if kind not in same:
                same[kind] = step.of_stage(stage).total
            found.append(same[kind])
        if train and setting.schedule == "dualpipe":
            return [(a + b) / 2 for a, b in zip(found, reversed(found), strict=True)]
        return found


class _Checked:
    """Memory of settings, those left out that nothing can make fit, and those that are slower than others that do."""

    def __init__(self, model: Model, graph: Graph, w: Workload, mode: Mode, hardware: Hardware) -> None:
        self.model, self.graph, self.w, self.room = model, graph, w, hardware.memory
        self.mode: Mode = mode
        self._known: dict[tuple, Known] = {}
        self._full: set[tuple] = set()
        self._fit: dict[tuple, list[Setting]] = {}

    def memory(self, setting: Setting) -> Memory | None:
        """What a setting holds; None where that does not fit, or one fits that does the same with less work."""
        layout = setting.parallel, setting.zero
        fits = self._fit.setdefault((setting.parallel, setting.micro), [])
        if layout in self._full or any(_slower(setting, other) for other in fits):
            return None
        known = self._known.setdefault(layout, {})
        found = memory(self.model, self.graph, self.w, self.mode, setting, known)
        if found.fits:
            fits.append(setting)
            return found
        if sum(found.per_device[name] for name in STATES) > self.room:
            self._full.add(layout)
        return None

    def lighter(self, fitted: Fitted, floors: Floors) -> Fitted:
        """A plan, with more sharded where a step takes no longer for that: what is sent then hides."""
        for zero in range(fitted.setting.zero + 1, 4 if self.mode == "train" else 0):
            one = replace(fitted.setting, zero=zero)
            again = floors.step(one).time()
            held = memory(self.model, self.graph, self.w, self.mode, one)
            if (again.total_s, held.per_device["total"]) < _order(fitted):
                fitted = Fitted(setting=one, memory=held, time=again)
        return fitted


def _slower(one: Setting, other: Setting) -> bool:
    """Whether a setting computes and sends all that another of the same layout and rows does, or more: what `full` runs
    again is a superset of what others do, all others' of nothing, and the more ZeRO shards the more it sends.
    """
    more = other.recompute in (one.recompute, "none") or one.recompute == "full"
    return more and one.zero >= other.zero
