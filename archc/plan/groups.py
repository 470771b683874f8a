"""Which ops of a module run as one kernel: maximal chains of row-local ops, cut where fewest bytes cross.

Ops run as early as they can, with all that they hand values to; what could run later, and saves bytes there, does.
Views and casts count for nothing and go with what they stand between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from archc.graph import Graph, Node, Scope, Stack, Value
from archc.graph.chains import chains
from archc.ops import Workload
from archc.ops.base import nbytes
from archc.ops.row import Cast

Item = Node | Scope | Stack
Readers = dict[Value, list[Node | None]]
"""Who reads a value; None stands for what is no node."""

TOKENS = Workload(batch=1, new=4096)
"""At which bytes are weighed: enough tokens that parameters weigh little."""


class Group(NamedTuple):
    """Nodes that run as one, views and casts among them: what they read from outside, what is read outside of them.

    ``takes`` are activations, then parameters, in the order of their first use.
    """

    nodes: tuple[Node, ...]
    takes: tuple[Value, ...]
    gives: tuple[Value, ...]

    def works(self) -> list[Node]:
        """Its nodes but views, casts, and what is made of parameters alone."""
        return list(filter(is_work, self.nodes))

    def bytes(self) -> int:
        """What it takes and gives, of `TOKENS`."""
        return sum(nbytes(value.type, TOKENS) for value in (*self.takes, *self.gives))


Fits = Callable[[Group], bool]
"""Whether nodes can be one kernel."""


def readers(graph: Graph) -> Readers:
    """Who reads each value. What a module gives back is read where its caller reads it."""
    found: Readers = {}
    for root in (graph.steps, graph.root):
        for scope in root.scopes():
            ends = [scope] if scope is graph.root or scope.ahead else []
            ends += [kind for item in scope.items if isinstance(item, Stack) for kind in item.kinds]
            for value in (v for end in ends for v in end.returns):
                found.setdefault(value, []).append(None)
            for item in scope.items:
                if isinstance(item, Node):
                    for value in item.ins:
                        found.setdefault(value, []).append(item)
                elif isinstance(item, Stack):
                    for value in item.args:
                        found.setdefault(value, []).append(None)
    return found


def glue(node: Node) -> bool:
    """Whether a node moves nothing by itself: a view (that stops no gradient), or a cast."""
    return (node.op.view and not node.op.constant) or isinstance(node.op, Cast)


def operands(node: Node) -> tuple[Value, ...]:
    """What a node reads; of a cast not the value that tells the dtype of activations."""
    return node.ins[:1] if isinstance(node.op, Cast) else node.ins


def of_params(node: Node) -> bool:
    """Whether what a node gives is made of parameters alone."""
    return bool(node.ins) and all(
        v.param is not None or (v.node is not None and of_params(v.node)) for v in operands(node)
    )


def is_work(node: Node) -> bool:
    """Whether a node has work for each token."""
    return not glue(node) and not of_params(node)


def may_join(node: Node) -> bool:
    """Whether a node works on each token alone, keeps no state, leaves nothing in the step, and is equal in all layers
    of its class.
    """
    op = node.op
    plain = not op.effect and not op.varies and not any(v.type.dtype == "none" for v in node.ins)
    return plain and (glue(node) or (not op.view and op.row(*(v.type for v in node.ins))))


class Region:
    """The items of a module, those of some of its modules (``opened``) among them."""

    def __init__(self, scope: Scope, opened: Collection[Scope], read_by: Readers) -> None:
        self.items = list(_flat(scope, opened))
        self.place = {item: i for i, item in enumerate(self.items)}
        self._readers = read_by
        self._maker = {value: item for item in self.items for value in made(item)}
        self._before = {item: list(self._waits(item)) for item in self.items if not self._is_glue(item)}
        effects = [item for item in self.items if any(map(in_order, nodes_of(item)))]
        for first, then in pairwise(effects):
            self._before.setdefault(then, []).append(first)
        self._after: dict[Item, list[Item]] = {}
        for item, before in self._before.items():
            for other in before:
                self._after.setdefault(other, []).append(item)

    @staticmethod
    def _is_glue(item: Item) -> bool:
        return isinstance(item, Node) and glue(item)

    def _waits(self, item: Item) -> Iterator[Item]:
        """What makes the operands of an item, views and casts looked through."""
        queue = list(reads(item))
        while queue:
            maker = self._maker.get(queue.pop(0))
            if isinstance(maker, Node) and glue(maker):
                queue += operands(maker)
            elif maker is not None and maker is not item:
                yield maker

    def groups(self, fits: Fits) -> list[Group]:
        """The groups of two ops or more, for which ``fits`` holds; no node is in two."""
        known: dict[frozenset[Node], bool] = {}

        def fit(nodes: list[Node]) -> bool:
            key = frozenset(nodes)
            if key not in known:
                known[key] = self.fitting(nodes, fits) is not None
            return known[key]

        lone = {node for node in self._before if isinstance(node, Node) and may_join(node) and fit([node])}
        parts: list[list[Node]] = []
        for chain in chains(list(self._before), self._before.__getitem__, lone.__contains__):
            nodes = [item for item in chain if isinstance(item, Node) and item in lone]
            if nodes:
                parts += [nodes] if fit(nodes) else self._merged([[node] for node in nodes], fit)
        found: list[Group] = []
        for nodes in sorted(self._merged(parts, fit), key=lambda part: self.place[part[0]]):
            others = {node for other in found for node in other.nodes if not of_params(node)}
            group = self.fitting(nodes, fits, others)
            if group is not None and len(group.works()) > 1:
                found.append(group)
        return found

    def fitting(self, nodes: list[Node], fits: Fits, without: Collection[Node] = ()) -> Group | None:
        """The group of these nodes, with or without the reshaping of what comes in: what fits and moves fewer bytes."""
        found = [self.group(nodes, without, reshaped=reshaped) for reshaped in (False, True)]
        return min(filter(fits, found), key=Group.bytes, default=None)

    def _merged(self, parts: list[list[Node]], fit: Callable[[list[Node]], bool]) -> list[list[Node]]:
        """The parts, those that hand each other most made one first, as long as they fit and none waits in a circle."""
        parts = list(parts)
        while True:
            number = {node: i for i, part in enumerate(parts) for node in part}
            for _, a, b in sorted(self._pairs(parts, number), key=lambda pair: -pair[0]):
                both = sorted(parts[a] + parts[b], key=self.place.__getitem__)
                if not self._apart(parts, number, a, b) and fit(both):
                    parts[a] = both
                    del parts[b]
                    break
            else:
                return parts

    def _pairs(self, parts: list[list[Node]], number: Mapping[Node, int]) -> Iterator[tuple[int, int, int]]:
        """(bytes that need not move if they are one, part, part that reads of it)"""
        for i, part in enumerate(parts):
            saved: dict[int, int] = {}
            for node in part:
                to = [reader for reader in self._after.get(node, ()) if reader not in part]
                by = {number.get(reader) if isinstance(reader, Node) else None for reader in to}
                size = sum(nbytes(v.type, TOKENS) for v in node.outs)
                for j in by - {None}:
                    assert j is not None
                    saved[j] = saved.get(j, 0) + size * (1 + (len(by) == 1))
            yield from ((size, i, j) for j, size in saved.items())

    def _apart(self, parts: list[list[Node]], number: Mapping[Node, int], first: int, then: int) -> bool:
        """Whether something must run between two parts: what waits for one, and the other waits for it."""

        def after(items: Iterable[Item]) -> Iterator[Item]:
            for item in items:
                for other in self._after.get(item, ()):
                    at = number.get(other) if isinstance(other, Node) else None
                    yield from (other,) if at is None else parts[at]

        inside, goal = {*parts[first], *parts[then]}, set(parts[then])
        queue = [item for item in after(parts[first]) if item not in inside]
        seen: set[Item] = set(queue)
        while queue:
            for item in after([queue.pop()]):
                if item in goal:
                    return True
                if item not in seen and item not in inside:
                    seen.add(item)
                    queue.append(item)
        return False

    # --- what a group is made of -----------------------------------------------------------------
    def group(self, works: Collection[Node], without: Collection[Node] = (), *, reshaped: bool = True) -> Group:
        """A group of these nodes with the views and casts between and before them, and the rounding behind, but for
        those ``without``. ``reshaped``: views before them that only regroup all of a value are inside, too.
        """
        inside: set[Node] = set(works)
        for item in reversed(self.items):
            if isinstance(item, Node) and glue(item) and item not in without and self._leads(item, inside, reshaped):
                inside.add(item)
        nodes = sorted(inside, key=self.place.__getitem__)
        of = {value for node in nodes for value in node.outs}
        taken = dict.fromkeys(v for node in nodes for v in operands(node) if v not in of)
        given = [
            v
            for node in nodes
            for v in node.outs
            if not of_params(node) and any(reader not in inside for reader in self._readers.get(v, ()))
        ]
        return Group(
            nodes=tuple(nodes),
            takes=(*(v for v in taken if v.param is None), *(v for v in taken if v.param is not None)),
            gives=tuple(given),
        )

    def _leads(self, node: Node, inside: set[Node], reshaped: bool) -> bool:
        """Whether a view or a cast goes with nodes that stand behind it (they are known) or before it."""
        who = [reader for value in node.outs for reader in self._readers.get(value, ())]
        within = any(reader in inside for reader in who)
        if any(root in inside for root in self._roots(node)):
            return within or (isinstance(node.op, Cast) and node.op.to == "act")
        part = reshaped or not node.op.view or len(node.outs) > 1
        return within and (of_params(node) or (part and all(reader in inside for reader in who)))

    def _roots(self, node: Node) -> Iterator[Node]:
        """What makes that which a view or a cast looks at."""
        for value in operands(node):
            maker = self._maker.get(value)
            if isinstance(maker, Node) and glue(maker):
                yield from self._roots(maker)
            elif isinstance(maker, Node):
                yield maker


def _flat(scope: Scope, opened: Collection[Scope]) -> Iterator[Item]:
    for item in scope.items:
        if isinstance(item, Scope) and item in opened:
            yield from _flat(item, opened)
        else:
            yield item


def nodes_of(item: Item) -> Iterable[Node]:
    """The nodes of an item."""
    return (item,) if isinstance(item, Node) else item.nodes()


def made(item: Item) -> Iterator[Value]:
    """What an item makes."""
    for node in nodes_of(item):
        yield from node.outs
    if isinstance(item, Stack):
        yield from item.outs


def reads(item: Item) -> Iterator[Value]:
    """What an item reads."""
    for node in nodes_of(item):
        yield from node.ins
    if not isinstance(item, Node):
        yield from item.args
    if isinstance(item, Scope):
        yield from item.returns


def in_order(node: Node) -> bool:
    """Whether a node leaves something behind, or reads what others leave: such nodes keep their order."""
    return node.op.effect or any(v.state is not None for v in node.ins)
