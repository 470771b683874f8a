"""The rules every graph keeps; checked after each pass in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.graph.value import Graph, Node, Scope, Stack, Value
from archc.ops import ShapeError, Type

if TYPE_CHECKING:
    import networkx


class GraphError(Exception):
    """A graph broke one of its rules: a fault of a drawer or a pass, not of a spec."""


def network(graph: Graph) -> networkx.DiGraph:
    """The graph of nodes (edges carry the values), for traversal by networkx algorithms."""
    import networkx

    net = networkx.DiGraph(name=graph.name)
    for node, times in graph.walk():
        net.add_node(node, kind=node.op.kind, times=times, component=node.component)
        for value in node.ins:
            if value.node is not None:
                net.add_edge(value.node, node, value=value)
    return net


def verify(graph: Graph) -> None:
    """Raises `GraphError` unless values are made before they are read, types follow from ops, names are unique."""
    import networkx

    if not networkx.is_directed_acyclic_graph(network(graph)):
        raise GraphError(f"{graph.name}: the graph has a cycle")
    ready: set[Value] = set()
    for node in graph.steps.nodes():
        _node(node, ready)
    _scope(graph.root, ready)
    names = [p.name for p in graph.parameters()]
    twice = {n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise GraphError(f"parameters with the same name: {', '.join(sorted(twice))}")


def _scope(scope: Scope, ready: set[Value]) -> None:
    where = ".".join(scope.path()) or "model"
    for value in (*scope.args, *scope.params):
        ready.add(value)
    for item in scope.items:
        if isinstance(item, Node):
            if item.scope is not scope:
                raise GraphError(f"{where}: {item} believes it stands in {item.scope}")
            _node(item, ready)
        elif isinstance(item, Scope):
            _read(item.args, ready, f"{where}: call of {item.name}")
            _scope(item, ready)
        else:
            _stack(item, ready, where)
    _read(scope.returns, ready, f"{where}: return")


def _stack(stack: Stack, ready: set[Value], where: str) -> None:
    _read(stack.args, ready, f"{where}: {stack.name}")
    for kind in stack.kinds:
        inside = set(ready)
        _scope(kind, inside)
        if [v.type for v in kind.returns] != [v.type for v in stack.args]:
            raise GraphError(f"{where}: {kind} does not return the state that the next layer takes")
        loose = [
            v for n in kind.nodes() for v in n.ins if v.node is not None and v.step is None and not kind.holds(v.scope)
        ]
        if loose:
            raise GraphError(f"{where}: {kind} reads {loose[0]}, which is neither its argument nor of the step")
    ready.update(stack.outs)


def _node(node: Node, ready: set[Value]) -> None:
    _read(node.ins, ready, str(node))
    try:
        types = node.op.infer(*(v.type for v in node.ins))
    except ShapeError as error:
        raise GraphError(f"{node}: {error}") from error
    types = (types,) if isinstance(types, Type) else types
    if node.op.effect == bool(types):
        raise GraphError(f"{node}: an op has either results or an effect")
    if tuple(v.type for v in node.outs) != types:
        raise GraphError(f"{node}: its rule gives {', '.join(map(str, types))}")
    ready.update(node.outs)


def _read(values: list[Value] | tuple[Value, ...], ready: set[Value], where: str) -> None:
    for value in values:
        if value not in ready and value.param is None and value.state is None:
            raise GraphError(f"{where}: reads {value} before it is made")
