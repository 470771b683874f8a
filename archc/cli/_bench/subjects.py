"""What `archc bench --static` looks at in a model: its fused functions, and the ops whose kernels are written by hand.

Each is a call of a package's code with operands of given types, so whoever runs it needs no graph.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from archc import resources
from archc.graph import Graph, Node, Scope, Value
from archc.graph.gradient import FLOATS, gradients
from archc.ops import Type, Workload
from archc.ops.base import nbytes, size
from archc.plan.passes.mixtures import is_mixture

Way = Literal["forward", "backward"]


class Operand(NamedTuple):
    """An operand of a call: its shape at each number of tokens, whether its gradient is wanted, and whether it has
    rows of tokens (a parameter has none).
    """

    shapes: dict[int, tuple[int, ...]]
    dtype: str
    wanted: bool
    rows: bool

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return self._asdict()


class Subject(NamedTuple):
    """One call: ``call`` over operands ``_0``, ``_1`` ..., and the module of the package of each other name in it.

    ``bounds`` are the bytes that must move, by the number of tokens, forward and backward.
    """

    op: str
    shapes: str
    call: str
    names: dict[str, str]
    operands: tuple[Operand, ...]
    bounds: dict[Way, dict[int, int]]
    times: int
    """How often a forward runs it."""

    def as_dict(self) -> dict[str, Any]:
        """As plain data, of what a process needs that runs it."""
        return {"call": self.call, "names": self.names, "operands": [o.as_dict() for o in self.operands]}


def subjects(graph: Graph, tokens: Sequence[int]) -> list[Subject]:
    """Each distinct call of a graph whose kernels are Triton's."""
    fixed = gradients(graph).constants
    found: dict[tuple[str, tuple[Type, ...]], Subject] = {}
    for scope, times in graph.scopes():
        whole = scope.function and not is_mixture(scope)  # of experts the ops are kernels
        calls = [_function(scope)] if whole else [_op(node) for node in _alone(scope)]
        for name, call, names, takes, gives, nodes in calls:
            key = (call, tuple(v.type for v in takes))
            known = found.get(key)
            if known is None:
                wanted = [v for v in takes if _learns(v, fixed)]
                known = Subject(
                    op=name,
                    shapes=_shapes(takes, gives),
                    call=call,
                    names=names,
                    operands=tuple(
                        Operand({t: _shape(v.type, t) for t in tokens}, v.type.dtype, v in wanted, v.param is None)
                        for v in takes
                    ),
                    bounds=_bounds(takes, gives, wanted, nodes, tokens),
                    times=0,
                )
            found[key] = known._replace(times=known.times + times)
    return list(found.values())


def _alone(scope: Scope) -> Iterator[Node]:
    """The nodes of a scope that run kernels of their own."""
    for item in scope.items:
        if isinstance(item, Node) and any(_in_triton(module) for _, module in _used(item)):
            yield item


def _op(node: Node) -> tuple[str, str, dict[str, str], tuple[Value, ...], tuple[Value, ...], list[Node]]:
    """What a subject says of a node."""
    call = ast.unparse(node.op.code(*(ast.Name(id=f"_{i}", ctx=ast.Load()) for i in range(len(node.ins)))))
    return node.op.kind, call, dict(_used(node)), node.ins, node.outs, [node]


def _function(scope: Scope) -> tuple[str, str, dict[str, str], tuple[Value, ...], tuple[Value, ...], list[Node]]:
    """What a subject says of a fused function."""
    name = scope.function
    call = f"{name}({', '.join(f'_{i}' for i in range(len(scope.args)))})"
    return name, call, {name: f"fused.{name}"}, tuple(scope.args), tuple(scope.returns), list(scope.nodes())


def _used(node: Node) -> Iterable[tuple[str, str]]:
    """Names that the printed form of a node uses, and their modules."""
    form = node.op.code(*(ast.Name(id="_", ctx=ast.Load()) for _ in node.ins))
    names = {n.id for n in ast.walk(form) if isinstance(n, ast.Name)}
    return [(name, module) for name, module in node.op.needs.items() if name in names]


@cache
def _in_triton(module: str) -> bool:
    """Whether a module of a package has Triton kernels."""
    folder, _, name = module.partition(".")
    return folder == "kernels" and "use_triton(" in (resources.kernels() / f"{name}.py").read_text(encoding="utf-8")


def _learns(value: Value, fixed: Collection[Value]) -> bool:
    """Whether a training step wants the gradient of an operand."""
    buffer = value.param is not None and value.param.buffer
    return value.type.dtype in FLOATS and value not in fixed and value.step is None and not buffer


def _workload(tokens: int) -> Workload:
    return Workload(batch=1, new=tokens)


def _shape(type: Type, tokens: int) -> tuple[int, ...]:
    return tuple(size(n, _workload(tokens)) for n in type.shape)


def _shapes(takes: Sequence[Value], gives: Sequence[Value]) -> str:
    """`[B, S, 4096] -> [B, S, 4096]`: the activations that come and go, each shape once."""
    sides = ([v for v in takes if v.param is None], gives)
    return " -> ".join(" ".join(dict.fromkeys(str(v.type) for v in side)) for side in sides)


def _bounds(
    takes: Sequence[Value],
    gives: Sequence[Value],
    wanted: Collection[Value],
    nodes: Sequence[Node],
    tokens: Sequence[int],
) -> dict[Way, dict[int, int]]:
    """Forward, what comes and goes, once; backward, what the gradient's row program takes and gives where there is one
    (the lesser of two: rows that were given may be read, or made again), else what came, the gradients of what went,
    and those of what came.
    """
    from archc.rows import traffic

    trained = _trained(takes, gives, wanted, nodes)
    forward, backward = {}, {}
    for count in tokens:
        w = _workload(count)
        came, went = (sum(nbytes(v.type, w) for v in values) for values in (takes, gives))
        forward[count] = came + went
        if trained is None:
            backward[count] = came + went + sum(nbytes(v.type, w) for v in wanted)
        else:
            programs, dims = trained
            backward[count] = min(traffic.bound(kernel, _count(dims, w), w.act) for kernel in programs)
    return {"forward": forward, "backward": backward}


def _count(dims: Sequence[Any], w: Workload) -> int:
    count = 1
    for n in dims:
        count *= size(n, w)
    return count


def _trained(
    takes: Sequence[Value], gives: Sequence[Value], wanted: Collection[Value], nodes: Sequence[Node]
) -> tuple[list[Any], Sequence[Any]] | None:
    """Row programs of the gradient, the one that is printed and one that reads no rows that were given, and the dims
    that count their tokens; None where the nodes are no row program, or nothing learns.
    """
    from archc.emit.kernels import kernels
    from archc.rows.kernel import Trained, trained
    from archc.rows.lower import Unfit, lower

    names = {v: f"take_{i}" for i, v in enumerate(takes)}
    try:
        kernel, dims = lower(nodes, names, {f"give_{i}": v for i, v in enumerate(gives)}, "bench")
    except Unfit:
        return None
    learning = [names[v] for v in takes if v in wanted and names[v] in kernel.takes]
    shapes = {name: tuple(n for n in v.shape if isinstance(n, int)) for v, name in names.items()}
    made = kernels(kernel, learning, 0, shapes)
    if made.backward is None:
        return None
    alone = trained(kernel, learning).settled
    once = {n: v for n, v in alone.gives.items() if n.removeprefix("d_") not in made.alike}
    return [Trained(made.training, made.backward).settled, alone._replace(gives=once)], dims
