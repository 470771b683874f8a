"""What a module runs for the cache alone, where nobody reads its result: the part of its forward that leads there."""

from __future__ import annotations

from archc.emit.flow import Flow
from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops.bypass import holds
from archc.record import dataclass


@dataclass(frozen=True, eq=False, slots=True)
class Slice:
    """The items of a scope that its state needs: nodes, modules in full, and slices of modules of which no result is
    needed; ``takes`` is what they read from outside.
    """

    scope: Scope
    items: tuple[Node | Scope | Slice, ...]
    takes: tuple[Value, ...]


class Slices:
    """The slices of a model with layers that tokens may skip, by scope, and which layers those are."""

    def __init__(self, graph: Graph, flow: Flow) -> None:
        self._flow = flow
        stacks = [item for scope in graph.root.scopes() for item in scope.items if isinstance(item, Stack)]
        self.skippable = {kind for stack in stacks for kind in stack.kinds if skippable(kind)}
        """Layers that hand on what they get where all of their tokens are sure."""
        self._known: dict[Scope, Slice | None] = {}
        self._needed = {found.scope.cls for kind in self.skippable for found in self._all(self._slice(kind))}

    def of(self, scope: Scope) -> Slice | None:
        """The slice that a module prints as a method: that of a layer that tokens may skip, of what such a layer is
        made of, and of modules of these classes elsewhere; None where no state is kept.
        """
        return self._slice(scope) if scope.cls in self._needed else None

    def _all(self, found: Slice | None) -> list[Slice]:
        if found is None:
            return []
        return [found, *(s for item in found.items if isinstance(item, Slice) for s in self._all(item))]

    def _slice(self, scope: Scope) -> Slice | None:
        if scope not in self._known:
            self._known[scope] = self._sliced(scope)
        return self._known[scope]

    def _sliced(self, scope: Scope) -> Slice | None:
        items: list[Node | Scope | Slice] = []
        needed: dict[Value, None] = {}
        made: set[Value] = set()
        for item in reversed(scope.items):
            if isinstance(item, Node):
                if needed.keys() & set(item.outs) or any(v.state is not None for v in item.ins):
                    items.append(item)
                    needed |= dict.fromkeys(item.ins)
                made.update(item.outs)
            elif isinstance(item, Scope):
                given = self._flow.gives(item)
                part = self._slice(item)
                if needed.keys() & set(given):
                    items.append(item)
                    needed |= dict.fromkeys(self._flow.takes(item))
                elif part is not None:
                    items.append(part)
                    needed |= dict.fromkeys(part.takes)
                made.update(given)
        if not items:
            return None
        read = [v for v in needed if v not in made and v.step is None and v.state is None]
        outside = [v for v in read if v.param is None or not scope.holds(v.scope)]
        takes = (*(v for v in scope.args if v in outside), *(v for v in outside if v not in scope.args))
        return Slice(scope, tuple(reversed(items)), takes)


def skippable(layer: Scope) -> bool:
    """Whether a layer hands on what it gets, all of it, where the confidence that it is handed is 1."""

    def kept(given: Value, back: Value) -> bool:
        node = back.node
        return back is given or (node is not None and holds(node.op) and node.ins[0] is given)

    held = [v for v in layer.returns if v.node is not None and holds(v.node.op)]
    return bool(held) and all(kept(a, b) for a, b in zip(layer.args, layer.returns, strict=True))


def confidence_of(layer: Scope) -> Value:
    """The confidence that a layer which tokens may skip is handed: its last argument."""
    return layer.args[-1]
