"""Absorption: attention over keys and values that are linear maps of cached latents becomes one op, which need not make
them (DeepSeek-V2, arXiv:2405.04434, section 2.1.2).
"""

from __future__ import annotations

from typing import cast

from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import Op
from archc.ops.attention import Attend
from archc.ops.latent import LatentAttend, crossover
from archc.ops.matrix import Linear
from archc.ops.time import Append
from archc.ops.view import Cat, Expand, Split, Unflatten
from archc.record import dataclass

Readers = dict[Value, list[Node | None]]
"""Who reads a value; None stands for what is no node."""


def absorb(graph: Graph) -> Graph:
    """The graph with `latent_attend` wherever an `attend` reads an expanded latent that nothing else reads."""
    readers = _readers(graph)
    for scope in graph.root.scopes():
        for node in [item for item in scope.items if isinstance(item, Node)]:
            found = _match(node)
            if found is not None and found.closed(node, readers):
                _replace(scope, node, found)
    return graph


@dataclass(frozen=True, slots=True)
class _Expansion:
    """How keys and values come of latents: the cached entries, the linear map, and every node after the cache."""

    entries: Value
    linear: Node
    nope: int
    values: int
    nodes: tuple[Node, ...]

    def closed(self, attend: Node, readers: Readers) -> bool:
        """Whether nothing but ``attend`` needs what its nodes make."""
        inside = {*self.nodes, attend}
        return all(reader in inside for node in self.nodes for value in node.outs for reader in readers.get(value, []))


def _match(attend: Node) -> _Expansion | None:
    """What an `attend` reads, if keys are [linear(latent) | the same for all heads] and values linear(latent)."""
    if not isinstance(attend.op, Attend) or attend.op.window is not None or len(attend.ins) != 4:
        return None
    _, keys, values, _ = attend.ins
    join = _maker(keys, Cat)
    expand = None if join is None or len(join.ins) != 2 else _maker(join.ins[1], Expand)
    halves = _maker(values, Split)
    heads = None if halves is None else _maker(halves.ins[0], Unflatten)
    linear = None if heads is None else _maker(heads.ins[0], Linear)
    cut = None if linear is None or len(linear.ins) != 2 else _maker(linear.ins[0], Split)
    if join is None or expand is None or halves is None or heads is None or linear is None or cut is None:
        return None
    nope, of_values = cast("Split", halves.op).sizes[0], values.type.last
    shaped = (
        halves.outs == (join.ins[0], values)
        and cut.outs == (linear.ins[0], expand.ins[0])
        and heads.outs[0].shape[2:] == (attend.ins[0].shape[2], nope + of_values)
        and _maker(cut.ins[0], Append) is not None
        and linear.scope is attend.scope
    )
    return (
        _Expansion(cut.ins[0], linear, nope, of_values, (cut, linear, heads, halves, expand, join)) if shaped else None
    )


def _maker(value: Value, op: type[Op]) -> Node | None:
    return value.node if value.node is not None and isinstance(value.node.op, op) else None


def _replace(scope: Scope, attend: Node, found: _Expansion) -> None:
    q, _, _, time = attend.ins
    weight = found.linear.ins[1]
    op = LatentAttend(
        nope=found.nope,
        scale=cast("Attend", attend.op).scale,
        absorb=crossover(latent=weight.type.last, nope=found.nope, values=found.values),
    )
    node = Node(op, (q, found.entries, weight, time), attend.outs, scope, None, attend.component)
    for value in node.outs:
        value.node = node
    gone = set(found.nodes)
    scope.items = [node if item is attend else item for item in scope.items if item not in gone]
    scope.modules = {name: module for name, module in scope.modules.items() if module not in gone}


def _readers(graph: Graph) -> Readers:
    readers: Readers = {}
    for root in (graph.steps, graph.root):
        for scope in root.scopes():
            for value in scope.returns:
                readers.setdefault(value, []).append(None)
            for item in scope.items:
                if isinstance(item, Node):
                    for value in item.ins:
                        readers.setdefault(value, []).append(item)
                elif isinstance(item, Stack):
                    for value in item.args:
                        readers.setdefault(value, []).append(None)
    return readers
