"""Seconds of works on a device: the longer of their arithmetic and their bytes, and a launch each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from archc.cost.parallel import groups, shard_shape
from archc.cost.placement import routed, splits
from archc.cost.setting import Setting
from archc.cost.works import Forms, Work, chosen
from archc.graph import Graph, Value
from archc.ops import Workload
from archc.ops.expert import GroupedLinear
from archc.ops.row import RowOp
from archc.schema import Hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds of some works: all arithmetic, all bytes, and what they take, split by what each waits for."""

    compute: float = 0.0
    memory: float = 0.0
    computing: float = 0.0
    """Of works that arithmetic decides."""
    moving: float = 0.0
    """Of works that bytes decide."""
    launching: float = 0.0

    @property
    def total(self) -> float:
        """Seconds that they take, one after the other."""
        return self.computing + self.moving + self.launching

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            compute=self.compute + other.compute,
            memory=self.memory + other.memory,
            computing=self.computing + other.computing,
            moving=self.moving + other.moving,
            launching=self.launching + other.launching,
        )

    def __mul__(self, times: float) -> Spent:
        return Spent(
            compute=self.compute * times,
            memory=self.memory * times,
            computing=self.computing * times,
            moving=self.moving * times,
            launching=self.launching * times,
        )


@dataclass(slots=True)
class Clock:
    """Times works on one device of a plan; ``w`` is what its replica works on at a time."""

    graph: Graph
    w: Workload
    setting: Setting
    hardware: Hardware
    micros: int = 1
    """Micro-batches of a step."""
    busy: float = 0.0
    """Share of the cores that send."""
    _shards: dict[Value, float] = field(default_factory=dict)

    def spent(self, works: Iterable[Work], *, backward: bool = False) -> Spent:
        """Seconds of works one after the other."""
        total = Spent()
        for work in works:
            total += self.one(work, backward=backward)
        return total

    def fastest(self, works: Iterable[Work | Forms]) -> tuple[Work, ...]:
        """The works, those that can be run in several ways in the one that takes least."""
        found: list[Work] = []
        for work in works:
            if isinstance(work, Forms):
                found += min(work.ways, key=lambda way: self.spent(way).total)
            else:
                found.append(work)
        return tuple(found)

    def one(self, work: Work, *, backward: bool = False) -> Spent:
        """Seconds of one work."""
        hw = self.hardware
        ways = self.ways(work)
        compute = self._compute(work, backward=backward) / ways
        if hw.drain and work.multiplies:
            compute += (work.results / ways + self._gradients(work)) / hw.drain
        compute /= 1 - self.busy
        memory = self.bytes(work, ways) / hw.streams + self._from_afar(work, ways)
        bound = compute > memory
        return Spent(
            compute=compute,
            memory=memory,
            computing=compute if bound else 0.0,
            moving=0.0 if bound else memory,
            launching=hw.launch * work.launches,
        )

    def _from_afar(self, work: Work, ways: float) -> float:
        """Seconds that what a cache holds takes longer to read where that is not on the device."""
        rate = self.hardware.brings(self.setting.cache)
        if not work.cached or not rate:
            return 0.0
        return work.cached / (self._cp(work) if work.repeated else ways) * (1 / rate - 1 / self.hardware.streams)

    def floor(self, work: Work) -> float:
        """The least seconds of one work: at what the maker states, without a launch."""
        ways = self.ways(work)
        flops = sum(s.flops / self.hardware.peak(s.number) for s in work.sums) / ways
        return max(flops, self.bytes(work, ways) / self.hardware.bandwidth)

    def _compute(self, work: Work, *, backward: bool) -> float:
        hot = self.setting.imbalance if isinstance(work.main.op, GroupedLinear) else 1.0
        seconds = 0.0
        for s in work.sums:
            if s.engine == "attention":
                # Its gradient computes the scores again: five products, where the ideal has four.
                again = 5 / 4 if backward else 1.0
                seconds += s.flops * again / self.hardware.attends(s.number, backward=backward)
            else:
                seconds += s.flops / self.hardware.rate(s.number)
        return seconds * hot

    # --- a device's part -------------------------------------------------------------------------
    def ways(self, work: Work) -> float:
        """Over how many devices of a replica its arithmetic and its activations are spread.

        tp divides what it splits (see `placement`), and all that works on rows, which are spread between sub-layers;
        what it repeats it does not divide. cp divides everything where there are tokens enough to spread.
        """
        return self._cp(work) * self._tp(work)

    def _cp(self, work: Work) -> int:
        cp, keyed = self.setting.parallel.cp, work.over_keys or any(s.engine == "attention" for s in work.sums)
        return cp if keyed or self.w.new >= cp else 1

    def _tp(self, work: Work) -> int:
        tp = self.setting.parallel.tp
        if tp == 1 or work.kernel.rows or isinstance(work.main.op, GroupedLinear | RowOp):
            return tp
        split = splits(self.graph)
        found = [split[v].ways(tp) for v in work.kernel.params if v in split]
        if found:
            return max(found)
        if any(s.engine == "attention" for s in work.sums) and work.kernel.writes:
            shape = work.kernel.writes[0].shape
            heads = shape[2] if len(shape) == 4 else 1
            return math.gcd(heads, tp) if isinstance(heads, int) else 1
        return 1 if work.sums else tp

    def bytes(self, work: Work, ways: float) -> float:
        """Bytes that the device moves for it."""
        total = (work.read - work.repeated + work.written) / ways + work.repeated / self._cp(work)
        for value, n in work.weights:
            total += n * self._shard(value) * self._busy(work, value)
        # Gradients of parameters are added up in memory, read and written; those of a single micro-batch are written.
        return total + self._gradients(work) * (2 if self.micros > 1 else 1)

    def _gradients(self, work: Work) -> float:
        return sum(n * self._shard(value) * self._busy(work, value) for value, n in work.gradients)

    def _busy(self, work: Work, value: Value) -> float:
        if value.param is None or not routed(value.param):
            return 1.0
        p, g = self.setting.parallel, groups(self.setting)
        tokens = self.w.batch * self.w.new / (p.cp if self.w.new >= p.cp else 1) * max(1.0, g.model / p.tp)
        return chosen(work, tokens)

    def _shard(self, value: Value) -> float:
        """The part of a parameter that the device works with."""
        if value not in self._shards:
            assert value.param is not None
            shape = shard_shape(value.param, splits(self.graph).get(value), self.setting)
            self._shards[value] = math.prod(shape) / max(1, math.prod(value.param.shape))
        return self._shards[value]
