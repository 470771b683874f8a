"""Time of the reference path on the machine at hand: the calls that every op runs, each at what it was seen to take.

No figure is fitted to a model. A call takes what one of its kind and size took in the calibration, interpolated between
the sizes that were tried; a product, or fused attention, no less than its weights or cache take to come from memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import product as combinations
from math import exp, log
from typing import Any

from archc import machine
from archc.cost.count import flops
from archc.cost.report import Mode, Time
from archc.cost.setting import Setting
from archc.graph import Graph, Node
from archc.ops import Workload
from archc.ops.calls import Call, Calls
from archc.schema import Model

Key = tuple[float, ...]


class Grid:
    """Seconds measured at points of a grid, of which some may be missing; between them powers of the sizes."""

    def __init__(self, rows: Iterable[list[float]]) -> None:
        self.points: dict[Key, float] = {}
        for *key, seconds in rows:
            self.points[tuple(key)] = max(seconds, 1e-12)
        self.axes = [sorted(set(values)) for values in zip(*self.points, strict=True)]
        self._all: dict[Key, float] = {}

    def at(self, *sizes: float) -> float:
        """Seconds at these sizes; beyond the grid in proportion to what lies beyond, below it those of its edge."""
        scale, ends = 1.0, []
        for axis, size in zip(self.axes, sizes, strict=True):
            if size >= axis[-1]:
                scale *= size / axis[-1]
                ends.append(((axis[-1], 1.0),))
            elif size <= axis[0]:
                ends.append(((axis[0], 1.0),))
            else:
                i = bisect_right(axis, size)
                low, high = axis[i - 1], axis[i]
                part = log(size / low) / log(high / low)
                ends.append(((low, 1 - part), (high, part)))
        total = 0.0
        for corner in combinations(*ends):
            share = 1.0
            for _, part in corner:
                share *= part
            if share:
                total += share * log(self._point(tuple(c for c, _ in corner)))
        return scale * exp(total)

    def _point(self, key: Key) -> float:
        """A point of the grid; one that was not tried from the next smaller, in proportion."""
        if key in self.points:
            return self.points[key]
        if key not in self._all:
            found = []
            for i, axis in enumerate(self.axes):
                at = axis.index(key[i])
                if at:
                    smaller = (*key[:i], axis[at - 1], *key[i + 1 :])
                    if smaller in self.points or sum(smaller) < sum(key):
                        found.append(self._point(smaller) * key[i] / axis[at - 1])
            self._all[key] = max(found)
        return self._all[key]


class Rates:
    """A calibration, ready to price calls."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.swept = Grid(data["swept"])
        self.moves = {kind: Grid(rows) for kind, rows in data["moves"].items()}
        self.peak: float = max(data["figures"]["fp32"], data["figures"]["bf16"])
        self.tables = {part: _grids(data[part]) for part in ("products", "batched", "attention", "cold")}

    def seconds(self, call: Call, pool: float, least: float) -> float:
        """All ``times`` of a call, in a step that reads ``pool`` bytes of parameters and cache.

        The first takes at ``least`` what a call between products does; those that repeat it find its code near.
        """
        one = max(self.arithmetic(call), self.memory(call, pool))
        return max(one, least) + (call.times - 1) * one if call.times > 1 else call.times * max(one, least)

    def least(self, pool: float, count: int) -> float:
        """What a small call takes in a step of ``count`` calls that reads ``pool`` bytes of parameters and cache."""
        return self.swept.at(min(pool / max(1, count), self.swept.axes[0][-1]))

    def arithmetic(self, call: Call) -> float:
        """One of a call, its operands near; for what is no product this is all."""
        if call.shape is None:
            return self.moves[call.kind].at(max(1.0, call.read + call.written))
        m, k, n, batch = (max(size, 1e-3) for size in call.shape)
        name = "bf16" if call.element == 2 else "fp32"
        if call.kind == "attention":
            return batch * self.tables["attention"][f"{name}_causal" if call.causal else name].at(m, n, k)
        if batch == 1:
            return self.tables["products"][name].at(m, k, n)
        return batch * self.tables["batched"][name].at(m, k, n)

    def memory(self, call: Call, pool: float) -> float:
        """What the parameters and cache that one of a call reads take to come."""
        if not call.cold or call.shape is None:
            return 0.0
        name = "bf16" if call.element == 2 else "fp32"
        rows = 1.0 if call.kind == "attention" else call.shape[0]
        grid = self.tables["cold"][name]
        # Seconds a byte: they grow with the pool up to the largest, and not beyond
        return call.cold * grid.at(min(pool, grid.axes[0][-1]), min(rows, grid.axes[1][-1]))


def _grids(part: dict[str, Any]) -> dict[str, Grid]:
    return {name: Grid(rows) for name, rows in part.items()}


def rates(threads: int | None = None) -> Rates:
    """The rates of this machine. Raises ValueError where it was not measured."""
    data = machine.load(threads)
    if data is None:
        raise ValueError(machine.MISSING)
    return Rates(data)


def calls(node: Node, w: Workload) -> Calls:
    """What the reference of a node runs."""
    return node.op.executes(w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs))


Run = list[tuple[Node, int, Calls]]


def around(run: Run, rates: Rates) -> tuple[float, float]:
    """Bytes of parameters and cache that a step reads, and what a small call takes in it."""
    pool = sum(times * c.times * c.cold for _, times, cs in run for c in cs)
    return pool, rates.least(pool, sum(times * len(cs) for _, times, cs in run))


def by_node(graph: Graph, w: Workload, rates: Rates) -> list[tuple[Node, int, float]]:
    """Every distinct node of a forward without labels, how often it runs, and seconds of one run."""
    run = [(node, times, calls(node, w)) for node, times in graph.walk(labels=False)]
    pool, least = around(run, rates)
    return [(node, times, sum(rates.seconds(c, pool, least) for c in cs)) for node, times, cs in run]


def forward(graph: Graph, w: Workload, rates: Rates) -> float:
    """Seconds of a forward with a cache."""
    return sum(times * seconds for _, times, seconds in by_node(graph, w, rates))


def time(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> Time:
    """Time of prefill or decoding by the package's reference path. Raises ValueError for what it does not know.

    ``compute_s`` is all products and fused attention, ``memory_s`` all else.
    """
    if mode == "train":
        raise ValueError("times of this machine are those of prefill and decode; training is not priced on `local`")
    if setting.parallel.devices > 1:
        raise ValueError(f"`local` is one machine: a plan of {setting.parallel.devices} devices does not fit it")
    if setting.speculate:
        raise ValueError("what drafts take is not known of `local`: leave --speculate out")
    known = rates()
    run = [(node, times, calls(node, w)) for node, times in graph.walk(labels=False)]
    pool, least = around(run, known)
    parts = {"products": 0.0, "attention": 0.0, "other calls": 0.0, "overhead": 0.0}
    for _, times, cs in run:
        for c in cs:
            seconds, bare = times * known.seconds(c, pool, least), times * known.seconds(c, pool, 0.0)
            name = {"product": "products", "attention": "attention"}.get(c.kind, "other calls")
            parts[name] += bare
            parts["overhead"] += seconds - bare
    total = sum(parts.values())
    ideal = flops(graph, w, mode, model.precision).ideal.workload_total
    tokens = w.batch * w.new / total
    hours = None if setting.tokens is None else setting.tokens / tokens / 3600
    peak = known.peak
    return Time(
        compute_s=parts["products"] + parts["attention"],
        memory_s=parts["other calls"],
        communication_s=0.0,
        total_s=total,
        bound=max(parts, key=lambda name: parts[name]),
        tokens_per_s=tokens,
        gpu_hours=hours,
        mfu=ideal / total / peak,
        parts=parts,
        flops_per_device=ideal / total,
    )


def assumptions() -> Iterator[str]:
    """The rules that times of this machine follow."""
    data = machine.load()
    assert data is not None
    yield (
        f"time: this machine ({data['cpu']}, {data['threads']} threads, PyTorch {data['torch']}, measured"
        f" {data['date']}): every call that the reference path runs takes what one of its kind and size took; a small"
        " one no less than what a call between products takes, whose weights drive all else out of the caches. Caches"
        " that pack their rows are priced as if they did not. Choices of experts are taken to be even."
    )
    yield "mfu: ideal FLOPs of the step over what the quickest product measured here would have computed in it."
