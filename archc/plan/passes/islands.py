"""Dtype islands: casts around ops that want at least float32, as nodes: printed, checked and costed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import Type
from archc.ops.row import Cast

To = Literal["fp32", "act"]


def islands(graph: Graph) -> Graph:
    """The graph with casts up before ops that want float32, and back before matrix products and at a layer's end."""
    for scope in (graph.steps, graph.root):
        _scope(scope)
    return graph


def _scope(scope: Scope) -> None:
    casts: dict[tuple[Value, To], Value] = {}
    act = next((a for a in scope.args if a.type.dtype == "act"), None)
    items: list[Node | Scope | Stack] = []
    for item in scope.items:
        if isinstance(item, Scope):
            _scope(item)
            act = _last_act(item.returns) or act
        elif isinstance(item, Stack):
            for kind in item.kinds:
                _scope(kind)
                _restore(kind, item.args)
            act = _last_act(item.outs) or act
        else:
            targets = _targets(item)
            for value, to in zip(item.ins, targets, strict=True):
                if to and (value, to) not in casts and (to == "fp32" or act is not None):
                    like = () if to == "fp32" or act is None else (act,)
                    casts[value, to] = _cast(scope, items, to, value, *like, component=item.component)
            if any(targets):
                item.ins = tuple(casts.get((v, to), v) if to else v for v, to in zip(item.ins, targets, strict=True))
            types = item.op.infer(*(v.type for v in item.ins))
            for out, new in zip(item.outs, (types,) if isinstance(types, Type) else types, strict=True):
                out.type = new
            act = _last_act(item.outs) or act
        items.append(item)
    scope.items = items


def _targets(node: Node) -> list[To | None]:
    """The dtype that each operand must have, None where any will do."""
    mixed = node.op.uniform and any(v.type.dtype == "fp32" for v in node.ins)
    targets: list[To | None] = []
    for value in node.ins:
        dtype = value.type.dtype
        if dtype == "act" and (mixed or (node.op.island and value.param is None)):
            targets.append("fp32")
        elif dtype == "fp32" and node.op.lowers and value.param is None and value.step is None:
            targets.append("act")
        else:
            targets.append(None)
    return targets


def _last_act(values: Sequence[Value]) -> Value | None:
    return next((v for v in reversed(values) if v.type.dtype == "act"), None)


def _restore(kind: Scope, state: list[Value]) -> None:
    """What a layer hands on has the dtype that the next layer takes."""
    made = [v for item in kind.items for v in (item.outs if isinstance(item, Node | Stack) else item.returns)]
    like = _last_act(made) or kind.args[0]
    for i, (value, wanted) in enumerate(zip(kind.returns, state, strict=True)):
        if value.type.dtype == "fp32" and wanted.type.dtype == "act":
            kind.returns[i] = _cast(kind, kind.items, "act", value, like, component="residual")
            kind.hints[kind.returns[i]] = kind.hints.get(value, "x")


def _cast(scope: Scope, items: list[Node | Scope | Stack], to: To, value: Value, *like: Value, component: str) -> Value:
    node = Node(Cast(to=to), (value, *like), (), scope, None, component)
    out = Value(Type(value.shape, to), scope, value.g, node)
    node.outs = (out,)
    items.append(node)
    return out
