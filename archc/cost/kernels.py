"""Which ops of a graph run as one kernel: chains of row-local ops together, every other op alone.

What a generator of row-wise kernels makes of a graph: ops that work on each token alone and hand each other values run
in one launch, which reads what enters the chain and writes what leaves it. Views move nothing, and what is made of
parameters alone is made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from archc.cost.placement import units
from archc.graph import Graph, Node, Scope, Stack, Value
from archc.graph.chains import chains
from archc.ops import Store
from archc.ops.row import Cast
from archc.ops.time import Append, Recall, TimeOf, TokenIds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernel:
    """Nodes that run in one launch, in order; ``reads`` comes from memory, ``writes`` goes there, parameters apart."""

    nodes: tuple[Node, ...]
    reads: tuple[Value, ...]
    params: tuple[Value, ...]
    writes: tuple[Value, ...]
    rows: bool
    """Whether it is a chain of row-local ops."""


class Sources:
    """Where the values of a graph really are: views stand for what they look at, what a state gives for its store."""

    def __init__(self, graph: Graph) -> None:
        self._made: dict[Value, bool] = {}
        self.stores: dict[Value, Store] = {}
        self.users: dict[Value, list[Node]] = {}
        self.ends: set[Value] = set()
        nodes = [node for node, _ in graph.walk()]
        for node in nodes:
            if isinstance(node.op, Append | Recall):
                self.stores[node.outs[0]] = store_of(node.ins[1])
        for node in filter(self.runs, nodes):
            for value in node.ins:
                for root in self.roots(value):
                    self.users.setdefault(root, []).append(node)
        for scope in graph.root.scopes():
            for item in scope.items:
                if isinstance(item, Stack):
                    self._end(item.args)
                    for kind in item.kinds:
                        self._end(kind.returns)
        self._end(graph.root.returns)
        for scope in graph.predictions():
            self._end((*scope.returns, *scope.args))

    def _end(self, values: Iterable[Value]) -> None:
        self.ends.update(root for value in values for root in self.roots(value))

    def made_of_params(self, value: Value) -> bool:
        """Whether a value depends on parameters alone."""
        if value not in self._made:
            node = value.node
            self._made[value] = value.param is not None or (
                node is not None and bool(node.ins) and all(self.made_of_params(v) for v in node.ins)
            )
        return self._made[value]

    def runs(self, node: Node) -> bool:
        """Whether a node is work: neither a view nor a part of a parameter, nor only a name of the step."""
        if looks(node) or isinstance(node.op, TimeOf | TokenIds):
            return False
        return node.op.effect or not all(self.made_of_params(v) for v in node.outs)

    def roots(self, value: Value) -> tuple[Value, ...]:
        """What lies in memory of a value: what a view looks at; the parameters behind what is made of these alone."""
        node = value.node
        if node is None:
            return () if value.state is not None or value.type.dtype == "none" else (value,)
        if value.type.dtype == "none":
            return ()
        if self.made_of_params(value):
            return tuple(dict.fromkeys(root for v in node.ins for root in self.roots(v)))
        return self.roots(node.ins[0]) if looks(node) else (value,)


def looks(node: Node) -> bool:
    """Whether a node moves nothing: a view, and a cast to float32, which whoever reads the value does on the way."""
    return node.op.view or (isinstance(node.op, Cast) and node.op.to == "fp32")


def store_of(state: Value) -> Store:
    """The store of a slot of state."""
    scope: Scope | None = state.scope
    while scope is not None:
        if state.state in scope.states:
            return scope.states[state.state]
        scope = scope.parent
    raise KeyError(state.state)


@lru_cache(maxsize=16)
def sources(graph: Graph) -> Sources:
    """Where the values of a graph are."""
    return Sources(graph)


def row_local(node: Node) -> bool:
    """Whether a node joins a chain: row-local ops, and what puts rows of these into a state."""
    return isinstance(node.op, Append | Recall) or (not node.op.effect and node.op.row(*(v.type for v in node.ins)))


@lru_cache(maxsize=16)
def kernels(graph: Graph) -> dict[str, tuple[Kernel, ...]]:
    """The kernels of each unit of a model (see `placement.units`) by its name and place, and of the step (``step``)."""
    found = {"step": tuple(_kernels(graph, graph.steps.nodes()))}
    for i, unit in enumerate(units(graph)):
        found[f"{i}"] = tuple(_kernels(graph, unit.nodes()))
    return found


def _kernels(graph: Graph, nodes: Iterable[Node]) -> Iterator[Kernel]:
    src = sources(graph)
    here = [node for node in nodes if src.runs(node)]
    inside = set(here)

    def made_by(node: Node) -> Iterator[Node]:
        for value in node.ins:
            for root in src.roots(value):
                if root.node in inside and root.node is not None:
                    yield root.node

    for group in chains(here, made_by, row_local):
        yield _kernel(src, group)


def _kernel(src: Sources, group: list[Node]) -> Kernel:
    own = set(group)
    taken = dict.fromkeys(root for node in group for value in node.ins for root in src.roots(value))
    outside = [v for v in taken if v.node not in own]
    written = [
        value
        for node in group
        for value in node.outs
        if value in src.ends or value in src.stores or any(user not in own for user in src.users.get(value, ()))
    ]
    return Kernel(
        nodes=tuple(group),
        reads=tuple(v for v in outside if v.param is None),
        params=tuple(v for v in outside if v.param is not None),
        writes=tuple(written),
        rows=row_local(group[0]),
    )
