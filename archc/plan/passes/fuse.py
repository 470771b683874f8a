"""Fusion: chains of row-local ops become functions, each of which runs as one kernel, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import chain, count, pairwise

from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops.row import Cast
from archc.plan.functions import argument_names, named, parameter_names
from archc.plan.groups import Group, Item, Readers, Region, in_order, may_join, nodes_of, of_params, readers, reads
from archc.plan.groups import made as made_by
from archc.rows.lower import Lowered, Unfit, lower


def fuse(graph: Graph) -> Graph:
    """The graph with its maximal row-local chains in functions (`Scope.function`).

    A chain stays within a module, or spans modules inside it that are no slots and go into it whole: of these only the
    parameters stay where they were. The nodes are the same, in an order in which they can run.
    """
    read_by = readers(graph)
    for scope in list(graph.root.scopes()):
        if scope.parent is not None and not scope.ahead and scope.items:
            _fuse(scope, read_by)
    scopes = list(_inside_out(graph.root))
    names = named([function for scope in scopes for function in scope.functions()])
    for scope in scopes:
        taken = {child.name for child in scope.children()}
        for function in scope.functions():
            function.function = function.cls = name = names[function]
            function.name = next(n for n in chain((name,), (f"{name}_{i}" for i in count(2))) if n not in taken)
            taken.add(function.name)
    return graph


def _inside_out(scope: Scope) -> Iterator[Scope]:
    """A scope after all those inside: what layers do often gets its name first."""
    for item in scope.items:
        for inside in (item,) if isinstance(item, Scope) else item.kinds if isinstance(item, Stack) else ():
            yield from _inside_out(inside)
    yield scope


def fits(group: Group) -> bool:
    """Whether a group of nodes is a row program."""
    try:
        lowered(group)
    except Unfit:
        return False
    return True


def lowered(group: Group) -> Lowered:
    """The row program of a group. Raises `Unfit`."""
    takes = {value: f"take_{i}" for i, value in enumerate(group.takes)}
    return lower(group.nodes, takes, {f"give_{i}": value for i, value in enumerate(group.gives)}, "group")


def _fuse(scope: Scope, read_by: Readers) -> None:
    """Makes the functions of a scope, modules that go whole into one included."""
    opened = {child for child in scope.children() if _may_open(child)}
    while True:
        region = Region(scope, opened, read_by)
        groups = region.groups(fits)
        shut = {child for child in opened if not _goes_whole(child, groups)}
        if not shut:
            break
        opened -= shut
    for group in groups:
        _settle(group, read_by)
    groups = [group._replace(gives=tuple(_given(group, read_by))) for group in groups]
    if groups:
        scope.unfused = list(scope.items)
    ranked: list[tuple[int, Item]] = []
    gone: set[Node] = set()
    for group in groups:
        function = _function(scope, group, read_by)
        gone.update(function.nodes())
        ranked.append((max(region.place[node] for node in group.nodes), function))
    for child in opened:
        ranked.append((min(region.place[node] for node in child.nodes()), child))
        child.items, child.unfused, child.args, child.returns = [], child.items, [], []
    for i, item in enumerate(region.items):
        left = isinstance(item, Node) and of_params(item) and not any(read_by.get(v) for v in item.outs)
        if item not in gone and not left:
            ranked.append((i, item))
    scope.items = _ordered([item for _, item in sorted(ranked, key=lambda pair: pair[0])])


def _may_open(child: Scope) -> bool:
    """Whether a module may go into a function: one that is nothing but parameters and row-local ops."""
    plain = not (child.slot or child.ahead or child.states)
    return plain and bool(child.items) and all(isinstance(item, Node) and may_join(item) for item in child.items)


def _goes_whole(child: Scope, groups: list[Group]) -> bool:
    """Whether a module's nodes are all in one group, which has others."""
    nodes = set(child.nodes())
    return any(nodes <= set(g.nodes) and any(node not in nodes for node in g.works()) for g in groups)


def _settle(group: Group, read_by: Readers) -> None:
    """Has casts to the activations' dtype read this off what the group takes, where it takes an activation."""
    like = next((v for v in group.takes if v.param is None and v.type.dtype == "act"), None)
    for node in group.nodes:
        if isinstance(node.op, Cast) and len(node.ins) > 1 and like is not None:
            _rewire(node, {node.ins[1]: like}, read_by)


def _given(group: Group, read_by: Readers) -> Iterator[Value]:
    """What of a group others read."""
    inside = set(group.nodes)
    yield from (value for value in group.gives if any(reader not in inside for reader in read_by[value]))


def _rewire(node: Node, instead: dict[Value, Value], read_by: Readers) -> None:
    """Has a node read other values."""
    for value in node.ins:
        if value in instead:
            read_by[value].remove(node)
            read_by.setdefault(instead[value], []).append(node)
    node.ins = tuple(instead.get(v, v) for v in node.ins)


def _function(scope: Scope, group: Group, read_by: Readers) -> Scope:
    """The function of a group, still nameless, with the names that its values had."""
    function = Scope("", "", scope, function="function")
    for source in dict.fromkeys(node.scope for node in group.nodes):
        function.hints.update(source.hints)
    inside, copies = set(group.nodes), dict[Value, Value]()
    for node in group.nodes:
        if of_params(node) and any(r not in inside for v in node.outs for r in read_by.get(v, ())):
            function.items.append(_copy(node, function, copies, read_by))
            continue
        _rewire(node, copies, read_by)
        node.scope = function
        for value in node.outs:
            value.scope = function
        function.items.append(node)
    own = {v for node in function.nodes() for v in node.outs}
    read = dict.fromkeys(v for node in function.nodes() for v in node.ins if v not in own)
    function.args = [*(v for v in read if v.param is None), *(v for v in read if v.param is not None)]
    function.returns = list(group.gives)
    function.hints.update(argument_names(function))
    function.hints.update(parameter_names(function))
    return function


def _copy(node: Node, function: Scope, copies: dict[Value, Value], read_by: Readers) -> Node:
    """A node made of parameters alone once more: others read the first."""
    again = Node(node.op, tuple(copies.get(v, v) for v in node.ins), (), function, None, node.component)
    again.outs = tuple(Value(v.type, function, v.g, again) for v in node.outs)
    copies.update(zip(node.outs, again.outs, strict=True))
    function.hints.update({new: function.hints[old] for old, new in copies.items() if old in function.hints})
    for value in again.ins:
        read_by.setdefault(value, []).append(again)
    return again


def _ordered(items: list[Item]) -> list[Item]:
    """The items in an order in which they can run, as close to theirs as can be: what is made before what reads it,
    parameters before their use, what leaves something behind as it was.
    """
    place = {item: i for i, item in enumerate(items)}
    maker = {value: item for item in items for value in made_by(item)}
    owner = {value: item for item in items if isinstance(item, Scope) for value in item.params}
    waits: dict[Item, set[Item]] = {}
    for item in items:
        found = {maker.get(v) or owner.get(v) for v in reads(item)}
        waits[item] = {other for other in found if other is not None and other is not item}
    for first, then in pairwise(item for item in items if any(map(in_order, nodes_of(item)))):
        waits[then].add(first)
    after: dict[Item, list[Item]] = {}
    for item, before in waits.items():
        for other in before:
            after.setdefault(other, []).append(item)
    ready = [place[item] for item in items if not waits[item]]
    heapify(ready)
    done: list[Item] = []
    while ready:
        item = items[heappop(ready)]
        done.append(item)
        for other in after.get(item, ()):
            waits[other].discard(item)
            if not waits[other]:
                heappush(ready, place[other])
    assert len(done) == len(items), "items wait for each other"
    return done
