"""What flows between scopes: who reads a value, what a module takes and gives back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from archc.graph import Graph, Node, Scope, Stack, Value


class Flow:
    """Readers of every value of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._read_in: dict[Value, list[Scope]] = {}
        self._returned_by: dict[Value, list[Scope]] = {}
        for scope in (graph.root, graph.steps):
            for inner in scope.scopes():
                for value in inner.returns:
                    self._returned_by.setdefault(value, []).append(inner)
                for item in inner.items:
                    if isinstance(item, Node | Stack):
                        for value in item.ins if isinstance(item, Node) else item.args:
                            self._read_in.setdefault(value, []).append(inner)

    @cached_property
    def _captured(self) -> dict[Scope, list[Value]]:
        return {}

    def takes(self, scope: Scope) -> list[Value]:
        """What a module's forward takes: its declared arguments that are used, then what it reads from outside."""
        if scope in self._captured:
            return self._captured[scope]
        made = {v for n in scope.nodes() for v in n.outs} | {v for s in _stacks(scope) for v in s.outs}
        made |= {v for s in _stacks(scope) for kind in s.kinds for v in kind.args}
        found = dict.fromkeys(scope.args)
        read = {v: None for n in scope.nodes() for v in n.ins} | dict.fromkeys(
            v for s in _stacks(scope) for v in s.args
        )
        for value in read:
            foreign = value.param is not None and not scope.holds(value.scope)
            loose = value.param is None and value.step is None and value.state is None and value not in made
            if foreign or loose:
                found[value] = None
        used = set(read) | set(scope.returns)
        self._captured[scope] = [v for v in found if v in used]
        return self._captured[scope]

    def gives(self, scope: Scope) -> list[Value]:
        """What a module's forward gives back: declared results that someone reads, and what else is read outside."""
        if scope.parent is None or _is_layer(scope):
            return list(scope.returns)
        made = [v for n in scope.nodes() for v in n.outs] + [v for s in _stacks(scope) for v in s.outs]
        passed = [v for v in scope.returns if self._outside(v, scope)]
        return list(dict.fromkeys([*passed, *(v for v in made if self._outside(v, scope))]))

    def _outside(self, value: Value, scope: Scope) -> bool:
        readers = self._read_in.get(value, [])
        returned = self._returned_by.get(value, [])
        return any(not scope.holds(r) for r in readers) or any(not scope.holds(r) for r in returned)

    def reads_step(self, scope: Scope) -> bool:
        """Whether a module takes the step. A slot always does, so that its parents need not differ."""
        return (
            scope.slot
            or _is_layer(scope)
            or any(s.states for s in scope.scopes())
            or any(n.op.effect or any(v.step for v in n.ins) for n in scope.nodes())
            or any(True for _ in _stacks(scope))
        )


def _is_layer(scope: Scope) -> bool:
    return scope.parent is not None and any(isinstance(i, Stack) and scope in i.kinds for i in scope.parent.items)


def _stacks(scope: Scope) -> Iterator[Stack]:
    for inner in scope.scopes():
        yield from (i for i in inner.items if isinstance(i, Stack))
