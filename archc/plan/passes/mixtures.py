"""The experts of a mixture become one function: sorted by expert, through their matrices, and summed in one call."""

from __future__ import annotations

from itertools import chain, count
from typing import Any

from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops.expert import Combine, Dispatch, GroupedLinear
from archc.ops.row import Swiglu
from archc.ops.view import Split, Unbind, Unflatten
from archc.plan.functions import form
from archc.plan.groups import Item, Readers, glue, made, nodes_of, readers, reads


def mixtures(graph: Graph) -> Graph:
    """The graph with what stands from `Dispatch` to `Combine` in functions (`Scope.function`) called ``experts``.

    The nodes are the same, in the same order; functions among them stay what they are.
    """
    known: dict[tuple, str] = {}
    read_by = readers(graph)
    for scope in list(graph.root.scopes()):
        items = [] if scope.function else _chain(scope, read_by)
        if not items:
            continue
        function = _function(scope, items)
        names = chain(("experts",), (f"experts_{i}" for i in count(2)))
        name = known.setdefault(form(function), next(n for n in names if n not in known.values()))
        function.name = function.cls = function.function = name
        scope.unfused = scope.unfused or list(scope.items)
        at = scope.items.index(items[0])
        scope.items[at : at + len(items)] = [function]
    return graph


def is_mixture(function: Scope) -> bool:
    """Whether a function is that of experts."""
    return any(isinstance(node.op, Dispatch) for node in function.nodes())


def gate_of(function: Scope) -> dict[str, Any] | None:
    """What opens the gate in a function of experts, where that is `Swiglu` of the halves of what the first matrix
    gives: whether rows of the two take turns in it (``by_turns``), and what `Swiglu` has that is not the usual.
    """
    nodes = list(function.nodes())
    first, then = (i for i, node in enumerate(nodes) if isinstance(node.op, GroupedLinear))
    *views, gate = nodes[first + 1 : then]
    kinds = [type(node.op) for node in views]
    if not isinstance(gate.op, Swiglu) or kinds not in ([Split], [Unflatten, Unbind]) or gate.ins != views[-1].outs:
        return None
    given = {"by_turns": True} if kinds != [Split] else {}
    options = {name: getattr(gate.op, name) for name in Swiglu.fields}
    return given | {name: value for name, value in options.items() if value != Swiglu.fields[name]}


def opening(function: Scope) -> tuple[list[Node | Scope], Value, Value]:
    """What a function of experts has between the two matrices of each, what this takes, and what it gives."""
    items = [item for item in function.items if not isinstance(item, Stack)]
    first, then = (i for i, item in enumerate(items) if isinstance(_op(item), GroupedLinear))
    return items[first + 1 : then], next(made(items[first])), next(iter(reads(items[then])))


def _op(item: Item) -> object:
    return item.op if isinstance(item, Node) else None


def _chain(scope: Scope, read_by: Readers) -> list[Item]:
    """The items of a module from `Dispatch` to `Combine`: each expert's two matrices, and between them what works on
    each row alone; none where it has others, or where something else reads what they make on the way.
    """
    ends = [i for i, item in enumerate(scope.items) if isinstance(_op(item), Dispatch | Combine)]
    if len(ends) != 2:
        return []
    items = scope.items[ends[0] : ends[1] + 1]
    kinds = [type(_op(item)) for item in (*items[:2], *items[-2:])]
    if len(items) < 5 or kinds != [Dispatch, GroupedLinear, GroupedLinear, Combine]:
        return []
    sort, first, *opens, then, combine = items
    nodes = [node for item in items for node in nodes_of(item)]
    if any(reader not in nodes for item in items[:-1] for v in made(item) for reader in read_by.get(v, ())):
        return []
    (rows, order, bounds), (gate_up,), (y,) = (list(made(item)) for item in (sort, first, then))
    inside = {gate_up, *(v for item in opens for v in made(item))}
    joined = [v for v in reads(first) if v.param is None] == [rows, bounds]
    joined = joined and list(reads(combine))[::2] == [y, order] and next(iter(reads(then))) in inside
    rowwise = all(glue(n) or n.op.row(*(v.type for v in n.ins)) for item in opens for n in nodes_of(item))
    return items if joined and rowwise and all(v in inside for item in opens for v in reads(item)) else []


def _function(scope: Scope, items: list[Item]) -> Scope:
    """The function of these items of a module, still nameless."""
    function = Scope("", "", scope, function="experts", items=list(items), hints=dict(scope.hints))
    for item in items:
        if isinstance(item, Node):
            item.scope = function
        elif isinstance(item, Scope):
            item.parent = function
    own = {v for item in items for v in made(item)}
    for value in own:
        if value.scope is scope:
            value.scope = function
    read = dict.fromkeys(v for item in items for v in reads(item) if v not in own)
    function.args = [*(v for v in read if v.param is None), *(v for v in read if v.param is not None)]
    function.returns = list(made(items[-1]))
    return function
