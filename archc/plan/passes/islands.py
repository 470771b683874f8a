"""Dtype islands: casts around ops that want at least float32, as nodes, so that they are printed, checked and costed."""

from __future__ import annotations

from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import OPS, Type

FLOATS = ("act", "fp32")


def islands(graph: Graph) -> Graph:
    """The graph with float operands of island ops cast up, and results cast back where a matrix product or a caller needs it."""
    for scope in (graph.steps, graph.root):
        _scope(scope, {})
    return graph


def _scope(scope: Scope, changed: dict[Value, Value]) -> None:
    """``changed`` maps values to what replaced them."""
    lifted: dict[Value, Value] = {}
    lowered: dict[Value, Value] = {}
    like: Value | None = next((a for a in scope.args if a.type.dtype == "act"), None)
    items: list[Node | Scope | Stack] = []
    for item in scope.items:
        if isinstance(item, Node):
            item.ins = tuple(changed.get(v, v) for v in item.ins)
            ins = []
            for value in item.ins:
                if item.op.island and value.type.dtype == "act" and value.param is None:
                    if value not in lifted:
                        lifted[value] = _cast(scope, items, "fp32", value, component=item.component)
                    value = lifted[value]
                elif item.op.lowers and value.type.dtype == "fp32" and value.param is None and value.step is None and like is not None:
                    if value not in lowered:
                        lowered[value] = _cast(scope, items, "act", value, like, component=item.component)
                    value = lowered[value]
                ins.append(value)
            item.ins = tuple(ins)
            types = item.op.infer(*(v.type for v in item.ins))
            for out, new in zip(item.outs, (types,) if isinstance(types, Type) else types, strict=True):
                out.type = new
            if like is None:
                like = next((v for v in item.outs if v.type.dtype == "act"), None)
            items.append(item)
        elif isinstance(item, Scope):
            item.args = [changed.get(v, v) for v in item.args]
            _scope(item, changed)
            items.append(item)
        else:
            for kind in item.kinds:
                _scope(kind, changed)
                _restore(kind, item.args)
            items.append(item)
    scope.items = items
    scope.returns = [changed.get(v, v) for v in scope.returns]


def _restore(kind: Scope, state: list[Value]) -> None:
    """What a layer hands on has the dtype that the next layer takes."""
    for i, (value, wanted) in enumerate(zip(kind.returns, state, strict=True)):
        if value.type.dtype == "fp32" and wanted.type.dtype == "act":
            kind.returns[i] = _cast(kind, kind.items, "act", value, kind.args[i], component="residual")
            kind.hints[kind.returns[i]] = kind.hints.get(value, "x")


def _cast(scope: Scope, items: list, to: str, value: Value, *like: Value, component: str) -> Value:
    op = OPS["cast"](to=to)  # type: ignore[call-arg]
    node = Node(op, (value, *like), (), scope, None, component)
    out = Value(Type(value.shape, to), scope, value.g, node)  # type: ignore[arg-type]
    node.outs = (out,)
    items.append(node)
    return out
