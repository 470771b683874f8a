"""Which nodes a training loss reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from archc.graph.value import Graph, Node, Scope, Stack, Value
from archc.ops import Table, Workload, numel
from archc.ops.loss import Loss

FLOATS = ("act", "fp32")
Given = Callable[[Node], Iterable[Value]]
"""The operands of a node to which its gradient goes."""


class Gradients(NamedTuple):
    """`trained` and `constants` of a graph.

    ``starts``: nodes of layers by how many of the first layers there are in which they read a constant that those
    further on do not: what a stack begins with.
    """

    trained: set[Node]
    constants: set[Value]
    starts: Counter[Node]


def trained(graph: Graph) -> set[Node]:
    """The nodes that get a gradient: those with a path of floating-point values to the results or to a loss.

    A choice (ids of entries or experts) passes none back, so what only serves to choose has none but that of a loss of
    its own. Nor has anything before a `Detach`, of the paths that lead through it.
    """
    return gradients(graph).trained


def gradients(graph: Graph, w: Workload | None = None) -> Gradients:
    """Which nodes get a gradient, and which values have none; under a workload, whose rows may be too short for some.

    Entries of which there are none are left out of what reads them, and no gradient goes to what would make them.
    """
    few = w if w is not None and short(graph, w) else None
    fixed = constants(graph)
    return Gradients(_reached(graph, fixed, lambda node: _given(node, few)), fixed, _starts(graph, fixed))


def learned(graph: Graph) -> set[Value]:
    """The parameters that get a gradient other than zeros, of nodes that read them. A stack's kinds count once."""
    found: set[Value] = set()
    for node in _reached(graph, constants(graph), lambda node: node.op.learns(node.ins)):
        found.update(v for v in node.op.learns(node.ins) if v.param is not None and not v.param.buffer)
    return found


def _reached(graph: Graph, fixed: set[Value], given: Given) -> set[Node]:
    """The nodes that get a gradient where each gives one to some of its operands, but for those of constants."""
    reached: set[Value] = set(graph.root.returns)
    reached.update(scope.returns[-1] for scope in graph.predictions())
    nodes: set[Node] = set()
    _back(graph.root, reached, nodes, given)
    _back(graph.steps, reached, nodes, given)
    return {n for n in nodes if isinstance(n.op, Loss) or not fixed.issuperset(n.outs)}


def short(graph: Graph, w: Workload) -> bool:
    """Whether rows that are learned from are too short for an entry of some table."""
    stores = (store for scope, _ in graph.scopes(labels=False) for store in scope.states.values())
    return not w.cached and any(isinstance(store, Table) and store.every > w.new for store in stores)


def constants(graph: Graph) -> set[Value]:
    """What a `Detach` gives, and what is made of nothing else: floating-point values that have no gradient."""
    fixed: set[Value] = set()
    for node, _ in graph.walk():
        _fix(node, fixed)
    return fixed


def _fix(node: Node, fixed: set[Value]) -> None:
    """Adds what a node gives to values without a gradient, if it is one."""
    floats = [v for v in node.ins if v.type.dtype in FLOATS and v.step is None]
    if node.op.constant or (floats and fixed.issuperset(floats)):
        fixed.update(node.outs)


def _starts(graph: Graph, fixed: set[Value]) -> Counter[Node]:
    """Nodes of layers, by the number of layers in which they read constants that the stack begins with."""
    found: Counter[Node] = Counter()
    for stack in (item for scope in graph.root.scopes() for item in scope.items if isinstance(item, Stack)):
        given = [value in fixed for value in stack.args]
        for kind in (stack.kinds[i] for i in stack.schedule):
            here = {arg for arg, constant in zip(kind.args, given, strict=True) if constant}
            if not here:
                break
            here |= fixed
            for node in kind.nodes():
                if any(v in here and v not in fixed for v in node.ins):
                    found[node] += 1
                _fix(node, here)
            given = [value in here for value in kind.returns]
    return found


def _given(node: Node, w: Workload | None) -> tuple[Value, ...]:
    """The operands of a node to which its gradient goes."""
    if w is None or not all(numel(v.type.shape, w) for v in node.outs):
        return node.ins
    return tuple(v for v in node.ins if numel(v.type.shape, w))


def _back(scope: Scope, reached: set[Value], nodes: set[Node], given: Given) -> None:
    for item in reversed(scope.items):
        if isinstance(item, Node):
            if isinstance(item.op, Loss):
                nodes.add(item)
                reached.update(item.op.learns(item.ins))
            elif any(v in reached and v.type.dtype in FLOATS for v in item.outs) and not item.op.constant:
                nodes.add(item)
                reached.update(given(item))
        elif isinstance(item, Scope):
            _back(item, reached, nodes, given)
        else:
            _stack(item, reached, nodes, given)


def _stack(stack: Stack, reached: set[Value], nodes: set[Node], given: Given) -> None:
    """Every layer hands its state on, so a gradient that reaches the last, or a loss in one, reaches the results of
    all.
    """
    if not (reached & set(stack.outs) or any(isinstance(node.op, Loss) for node in stack.nodes())):
        return
    for kind in stack.kinds:
        reached.update(kind.returns)
        _back(kind, reached, nodes, given)
    reached.update(stack.args)
