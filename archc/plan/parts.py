"""A model in parts that can be counted apart: each sub-layer alone, and what is around them.

A sub-layer reads its input and the step, and gives its result: whatever else is in the model, its nodes are the same.
So is what is around it for all sub-layers that give the same dtype. A part is built by what builds whole models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archc.graph import Builder, BuildError, Graph, Node, Stack, Value
from archc.graph.gradient import Gradients, gradients
from archc.ops import Op, Type
from archc.ops.base import DType
from archc.plan.assemble import COMPONENTS, MODULES, ahead_slots, assemble, class_name
from archc.plan.passes import PASSES
from archc.record import dataclass
from archc.schema import LAYER_SLOTS, LayerSlots, Model


class Inseparable(Exception):
    """A model whose sub-layers cannot be built alone, or whose parts depend on one another."""


class StandIn(Op, abstract=True):
    """Takes the place of a sub-layer: a result of the same shape, for nothing."""

    kind = "stand_in"
    view = True
    slot: str
    dtype: DType

    def infer(self, *ins: Type) -> Type:
        return Type(ins[0].shape, self.dtype)


@dataclass(frozen=True, slots=True)
class Stand:
    """What fills a slot in place of a drawer whose result has this dtype."""

    slot: str
    dtype: DType
    label: str = ""
    bypass: None = None

    def build(self, g: Builder, x: Value) -> Value:
        """The stand-in's result."""
        return g.add(StandIn(slot=self.slot, dtype=self.dtype), None, x)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sub-layer stands: its slot, and the type of its input when it is built and after all passes."""

    slot: str
    built: Type
    planned: Type


Kind = tuple[DType | None, ...]
"""What the sub-layers of a layer give, slot by slot; None where there is none."""


@dataclass(frozen=True, slots=True)
class Around:
    """A model whose sub-layers are stand-ins, and where they stand by (slot, dtype, ahead)."""

    graph: Graph
    stack: Stack
    places: Mapping[tuple[str, DType, bool], Place]

    def scheduled(self, counts: Sequence[int]) -> Graph:
        """The graph with so many layers of each kind."""
        self.stack.schedule = tuple(kind for kind, count in enumerate(counts) for _ in range(count))
        return self.graph


def around(model: Model, kinds: Sequence[Kind], ahead: Kind) -> Around:
    """What is around the sub-layers of a model with layers of these kinds, one each, and modules ahead of this one.

    Raises `Inseparable`.
    """
    layers = tuple(_standing(kind) for kind in kinds)
    fields: dict[str, Any] = {"schedule": layers}
    if model.mtp is not None:
        slots = _standing(ahead)
        fields["mtp"] = model.mtp.model_copy(update={"attention": slots.attention, "ffn": slots.ffn})
        if slots.memory is not None:
            raise Inseparable
    try:
        graph = assemble(model.model_copy(update=fields), names=False)
    except BuildError as error:
        raise Inseparable from error
    nodes = [(node, bool(_ahead(node))) for node in graph.root.nodes() if isinstance(node.op, StandIn)]
    built = {node: node.ins[0].type for node, _ in nodes}
    for run in PASSES:
        graph = run(graph)
    reached, fixed, _ = gradients(graph)
    places: dict[tuple[str, DType, bool], Place] = {}
    for node, far in nodes:
        op = node.op
        assert isinstance(op, StandIn)
        place = Place(op.slot, built[node], node.ins[0].type)
        if places.setdefault((op.slot, op.dtype, far), place) != place or node not in reached or node.ins[0] in fixed:
            raise Inseparable
    (stack,) = (item for scope in graph.root.scopes() for item in scope.items if isinstance(item, Stack))
    return Around(graph, stack, places)


@dataclass(frozen=True, slots=True)
class Alone:
    """A sub-layer alone: its graph after all passes, what of it learns, and the dtype of its result."""

    graph: Graph
    gradients: Gradients
    gives: DType


def alone(mixer: Any, place: Place) -> Alone:
    """A sub-layer alone, as it stands in a layer: where it predicts further tokens its nodes are the same. Raises
    `Inseparable`.
    """
    g = Builder("", names=False)
    x = Value(place.built, g.here, g)
    try:
        with g.component(COMPONENTS[place.slot]):
            y = g.call(MODULES[place.slot], class_name(place.slot, mixer.label), mixer.build, x, slot=True)
        g.here.args, g.here.returns = [x], [y]
    except BuildError as error:
        raise Inseparable from error
    if y.shape != x.shape:
        raise Inseparable
    graph = g.graph
    x.type = place.planned
    for run in PASSES:
        graph = run(graph)
    found = gradients(graph)
    if not any(x in node.ins for node in found.trained) or y in found.constants:
        raise Inseparable
    return Alone(graph, found, y.type.dtype)


def _standing(kind: Kind) -> LayerSlots:
    stands: dict[str, Any] = {
        s: None if dtype is None else Stand(s, dtype) for s, dtype in zip(LAYER_SLOTS, kind, strict=True)
    }
    return LayerSlots.model_construct(**stands)


def _ahead(node: Node) -> int:
    scope = node.scope
    while scope is not None:
        if scope.ahead:
            return scope.ahead
        scope = scope.parent
    return 0


def slots_ahead(model: Model) -> LayerSlots | None:
    """The drawers of a module that predicts further tokens."""
    return None if model.mtp is None else ahead_slots(model, model.mtp)
