"""Which nodes a training loss reaches."""

from __future__ import annotations

from archc.graph.value import Graph, Node, Scope, Stack, Value
from archc.ops.loss import Loss

FLOATS = ("act", "fp32")


def trained(graph: Graph) -> set[Node]:
    """The nodes that get a gradient: those with a path of floating-point values to the results or to a loss.

    A choice (ids of entries or experts) passes none back, so what only serves to choose has none.
    """
    reached: set[Value] = set(graph.root.returns)
    reached.update(scope.returns[-1] for scope in graph.predictions())
    nodes: set[Node] = set()
    _back(graph.root, reached, nodes)
    _back(graph.steps, reached, nodes)
    return nodes


def learned(graph: Graph) -> set[Value]:
    """The parameters that get a gradient: those that a trained node reads. A stack's kinds count once."""
    nodes = trained(graph)
    return {v for node in nodes for v in node.ins if v.param is not None and not v.param.buffer}


def _back(scope: Scope, reached: set[Value], nodes: set[Node]) -> None:
    for item in reversed(scope.items):
        if isinstance(item, Node):
            if isinstance(item.op, Loss) or any(v in reached and v.type.dtype in FLOATS for v in item.outs):
                nodes.add(item)
                reached.update(item.ins)
        elif isinstance(item, Scope):
            _back(item, reached, nodes)
        else:
            _stack(item, reached, nodes)


def _stack(stack: Stack, reached: set[Value], nodes: set[Node]) -> None:
    """Every layer hands its state on, so a gradient that reaches the last, or a loss in one, reaches the results of
    all.
    """
    if not (reached & set(stack.outs) or any(isinstance(node.op, Loss) for node in stack.nodes())):
        return
    for kind in stack.kinds:
        reached.update(kind.returns)
        _back(kind, reached, nodes)
    reached.update(stack.args)
