"""Counts many models that share parts: every part is planned and counted once, and models are sums of them.

A sweep over the experts of a model plans one feed-forward for each variant, not a model. The figures are those of
`count`, by the same walk over nodes (`tally`), only that the sum runs over parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

from archc.cost.count import figures, workload
from archc.cost.report import Mode, Report, WorkloadReport
from archc.cost.setting import Setting
from archc.cost.tables import specs, tables
from archc.cost.tally import Tally, ahead_of, combined, tally
from archc.graph import Graph
from archc.ops import ParamSpec, Workload
from archc.ops.base import DType
from archc.plan import knows, plan
from archc.plan.parts import Alone, Around, Inseparable, Kind, alone, around, slots_ahead
from archc.schema import LAYER_SLOTS, Drawer, LayerSlots, Model

TRIES = 4
"""How often sub-layers may turn out to give other dtypes than assumed."""

AROUND = ("vocab", "dim", "norm", "norm_placement", "residual", "head")
"""The fields of a model that what is around its sub-layers depends on, besides its modules ahead."""


class _Use(NamedTuple):
    """A sub-layer: its slot, its drawer by number, and whether it predicts further tokens."""

    slot: str
    drawer: int
    ahead: bool


class Parts:
    """The parts of all models counted so far.

    Equal drawers share a part. Those that come again are found faster where they are the same objects.
    """

    def __init__(self) -> None:
        self._numbers: dict[Drawer, int] = {}
        self._drawers: list[Drawer] = []
        self._same: dict[int, tuple[Drawer, int]] = {}
        self._arounds: dict[Hashable, Around] = {}
        self._alone: dict[Hashable, Alone] = {}
        self._gives: dict[_Use, DType] = {}
        self._tallies: dict[Hashable, dict[Hashable, Tally]] = {}
        self._reports: tuple[Model, dict[WorkloadReport, Report]] | None = None

    def report(
        self, model: Model, *, mode: Mode = "decode", batch: int = 1, seq: int | None = None, context: int | None = None
    ) -> Report:
        """What `count` reports of a model under a workload, but for memory and time.

        Raises ValueError for a workload that cannot be, `ArchError` for a model that does not fit together.
        """
        w, shown = workload(model, mode, batch, seq, context)
        if self._reports is None or self._reports[0] is not model:
            self._reports = model, {}
        known = self._reports[1]
        if shown not in known:
            known[shown] = self._report(model, w, shown)
        return known[shown]

    def _report(self, model: Model, w: Workload, shown: WorkloadReport) -> Report:
        try:
            total, there = self._tally(model, w)
        except Inseparable:
            graph = plan(model, names=False)
            total, there = tally(graph, w, model.cache, model.precision), specs(graph)
        read = tables(model, there, Setting(), shown.mode)
        return figures(model, total, w, shown, predicts=model.mtp is not None, tables=read)

    def _tally(self, model: Model, w: Workload) -> tuple[Tally, list[ParamSpec]]:
        """The sums of a model, and its tables."""
        uses: Counter[_Use] = Counter()
        layers: Counter[tuple[_Use | None, ...]] = Counter()
        times = Counter(map(id, model.schedule))
        for slots in {id(slots): slots for slots in model.schedule}.values():
            layers[self._uses(slots, ahead=False)] += times[id(slots)]
        for row, n in layers.items():
            for use in filter(None, row):
                uses[use] += n
        if any(slots.memory is not None and slots.memory.bypass is not None for slots in model.schedule):
            raise Inseparable  # what is around a layer depends on those before it
        far: tuple[_Use | None, ...] = (None,) * len(LAYER_SLOTS)
        if model.mtp is not None and (slots := slots_ahead(model)) is not None:
            far = self._uses(slots, ahead=True)
            for use in filter(None, far):
                uses[use] += model.mtp.depth
        for _ in range(TRIES):
            kinds: Counter[Kind] = Counter()
            for row, n in layers.items():
                kinds[self._kind(row)] += n
            key, frame = self._around(model, tuple(kinds), self._kind(far))
            found = [(*self._part(use, frame), use, n) for use, n in uses.items()]
            gives: dict[_Use, DType] = {use: part.gives for _, part, use, _ in found}
            if all(self._gives.get(use, "act") == dtype for use, dtype in gives.items()):
                break
            self._gives |= gives
        else:
            raise Inseparable
        if model.cache.packs and not any(_packs(part.graph, model) for _, part, use, _ in found if not use.ahead):
            raise Inseparable  # `plan` says why
        known = self._tallies.setdefault((w, self._number(model.cache), self._number(model.precision)), {})
        whole = (key, *kinds.values())
        if whole not in known:
            known[whole] = tally(frame.scheduled(tuple(kinds.values())), w, model.cache, model.precision)
        parts = [(known[whole], 1)]
        for one, part, use, n in found:
            if one not in known:
                known[one] = tally(part.graph, w, model.cache, model.precision, part.gradients)
            parts.append((ahead_of(known[one]) if use.ahead else known[one], n))
        return combined(parts), [
            spec for _, part, use, n in found if use.slot == "memory" for spec in specs(part.graph) * n
        ]

    def _kind(self, row: tuple[_Use | None, ...]) -> Kind:
        return tuple(None if use is None else self._gives.get(use, "act") for use in row)

    def _uses(self, slots: LayerSlots, *, ahead: bool) -> tuple[_Use | None, ...]:
        drawers = ((slot, getattr(slots, slot)) for slot in LAYER_SLOTS)
        return tuple(None if d is None else _Use(slot, self._number(d), ahead) for slot, d in drawers)

    def _number(self, drawer: Drawer) -> int:
        """A number that equal drawers share."""
        if id(drawer) not in self._same:
            if drawer not in self._numbers:
                self._numbers[drawer] = len(self._drawers)
                self._drawers.append(drawer)
            # kept, so that no other object gets its id
            self._same[id(drawer)] = drawer, self._numbers[drawer]
        return self._same[id(drawer)][1]

    def _around(self, model: Model, kinds: tuple[Kind, ...], ahead: Kind) -> tuple[Hashable, Around]:
        values = (getattr(model, name) for name in AROUND)
        mtp = None if model.mtp is None else model.mtp.model_copy(update={"attention": None, "ffn": None})
        fields = [self._number(value) if isinstance(value, Drawer) else value for value in values]
        key = (*fields, mtp, kinds, ahead)
        if key not in self._arounds:
            self._arounds[key] = around(model, kinds, ahead)
        return key, self._arounds[key]

    def _part(self, use: _Use, frame: Around) -> tuple[Hashable, Alone]:
        place = frame.places[use.slot, self._gives.get(use, "act"), use.ahead]
        key = use.drawer, place
        if key not in self._alone:
            self._alone[key] = alone(self._drawers[use.drawer], place)
        return key, self._alone[key]


def _packs(graph: Graph, model: Model) -> bool:
    return any(knows(store, model.cache.kind) for scope in graph.root.scopes() for store in scope.states.values())
