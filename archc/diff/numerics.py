"""Whether two graphs compute the same of equal weights: values are numbered by what makes them, so that equal numbers
mean equal computations (global value numbering). Names of variables, modules and classes do not count; those of
parameters do, since weights are found by them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from archc.diff.fields import texts
from archc.diff.findings import Finding
from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import Op
from archc.ops.loss import Effect
from archc.ops.view import Detach

SIZES = ("dim", "experts", "inputs_first", "out", "rows", "sizes")
"""Fields of ops that follow from the shapes of parameters, which are compared apart."""

PLACES = ("placement",)
"""Fields of ops that say where numbers lie, not which."""

GROUP_OF = {"self_attn": "attention", "mlp": "ffn", "memory": "memory"}
"""Modules of a layer by the slot that fills them."""

COMPONENTS = {"norm", "residual", "embedding", "head"}
"""Components of nodes that stand in no such module, and that are groups themselves."""

MOST_OPS = 6
"""Ops that a finding names; more are counted."""


class Part(NamedTuple):
    """What runs as a whole: a layer, what is around the layers, or a module that predicts further tokens."""

    scope: Scope
    nodes: list[Node]
    args: list[Value]
    returns: list[Value]

    def groups(self) -> dict[str, list[Node]]:
        """Its nodes by group."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            found.setdefault(_group(node, self.scope), []).append(node)
        return found


def _group(node: Node, top: Scope) -> str:
    scope = node.scope
    while scope is not top and scope.parent is not None:
        if scope.name in GROUP_OF and scope.parent is top and not top.ahead:
            return GROUP_OF[scope.name]
        scope = scope.parent
    return "mtp" if top.ahead else node.component if node.component in COMPONENTS else "model"


def numerics(a: Graph, b: Graph) -> Iterator[Finding]:
    """Differences in what two graphs compute, besides the shapes of parameters."""
    left, right = _stack(a), _stack(b)
    pairs: dict[tuple[int, int], list[int]] = {}
    for layer, pair in enumerate(zip(left.schedule, right.schedule, strict=False)):
        pairs.setdefault(pair, []).append(layer)
    found: dict[tuple, set[int]] = {}
    for (i, j), layers in pairs.items():
        for what in _compared(_layer(left.kinds[i]), _layer(right.kinds[j])):
            found.setdefault(what, set()).update(layers)
    for what in _compared(_around(a, left), _around(b, right)):
        found.setdefault(what, set())
    for one, other in zip(a.predictions(), b.predictions(), strict=False):
        for what in _compared(_whole(one), _whole(other)):
            found.setdefault(what, set())
    for (group, name, before, after, training), layers in found.items():
        yield Finding(
            level="NUMERICS",
            group=group,
            change="changed",
            what=name,
            a=before,
            b=after,
            layers=tuple(sorted(layers)),
            training_only=training or group == "mtp",
        )


def _stack(graph: Graph) -> Stack:
    return next(item for scope in graph.root.scopes() for item in scope.items if isinstance(item, Stack))


def _layer(kind: Scope) -> Part:
    return Part(kind, list(kind.nodes()), kind.args, kind.returns)


def _whole(scope: Scope) -> Part:
    return Part(scope, list(scope.nodes()), scope.args, scope.returns)


def _around(graph: Graph, stack: Stack) -> Part:
    """What the main model runs around its layers: what goes into them is a result, what comes out is given."""

    def nodes(scope: Scope) -> Iterator[Node]:
        for item in scope.items:
            if isinstance(item, Node):
                yield item
            elif isinstance(item, Scope) and not item.ahead:
                yield from nodes(item)

    return Part(graph.root, list(nodes(graph.root)), stack.outs, [*stack.args, *graph.root.returns])


# --- comparison ----------------------------------------------------------------------------------
Change = tuple[str, str, str, str, bool]
"""(group, what, before, after, whether training alone sees it)"""


def _compared(a: Part, b: Part) -> Iterator[Change]:
    """What differs between two parts: by group where one group differs in itself, else how groups are joined."""
    numbers = Numbers()
    outputs, everything = (
        (numbers.of(a, learning=learning), numbers.of(b, learning=learning)) for learning in (False, True)
    )
    if everything[0] == everything[1]:
        return
    training = outputs[0] == outputs[1]
    left, right = a.groups(), b.groups()
    told = False
    for group in {**left, **right}:
        for change in _told(group, left.get(group, []), right.get(group, []), training=training):
            told = True
            yield change
    if not told and not _reshaped(a, b):
        group = "mtp" if a.scope.ahead else "model"
        yield group, "how ops are joined", "", "", training


def _reshaped(a: Part, b: Part) -> bool:
    """Whether the parts read other parameters: then a checkpoint does not load, which says it all."""
    return _parameters(a) != _parameters(b)


def _parameters(part: Part) -> set[Hashable]:
    return {_parameter(v, part.scope) for node in part.nodes for v in node.ins if v.param is not None}


def _parameter(value: Value, top: Scope) -> Hashable:
    """A parameter by its name within a part (by its full name where it is another's), shape and dtype."""
    assert value.param is not None
    path = value.scope.path()
    own = top.path()
    name = path[len(own) :] if value.scope is top or path[: len(own)] == own else ("", *path)
    return (*name, value.param.name), value.param.shape, value.param.dtype


class Numbers:
    """Numbers of values: two values have the same if the same ops make them of the same parameters and arguments."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def of(self, part: Part, *, learning: bool) -> tuple[int, ...]:
        """Numbers of what a part returns and writes; with ``learning`` also of its losses and where gradients stop."""
        values: dict[Value, int] = {v: self._number(("argument", i)) for i, v in enumerate(part.args)}
        done: dict[Node, int] = {}

        def value(v: Value) -> int:
            if v not in values:
                values[v] = self._number(source(v))
            return values[v]

        def source(v: Value) -> Hashable:
            if v.param is not None:
                return "parameter", _parameter(v, part.scope)
            if v.state is not None:
                return "state", v.state, _kept(v)
            if v.node is None:
                return "argument", str(v.type)
            if isinstance(v.node.op, Detach) and not learning:
                return "same", value(v.node.ins[0])
            return "result", node(v.node), v.node.outs.index(v)

        def node(n: Node) -> int:
            if n not in done:
                done[n] = self._number(("node", _anywhere(n.op), tuple(value(v) for v in n.ins)))
            return done[n]

        for n in part.nodes:  # in order, so that nothing recurses deeply
            node(n)
        writes = [node(n) for n in part.nodes if any(v.state is not None for v in n.ins)]
        effects = [node(n) for n in part.nodes if isinstance(n.op, Effect)] if learning else []
        return (*(value(v) for v in part.returns), -1, *sorted(writes), -1, *sorted(effects))

    def _number(self, key: Hashable) -> int:
        if isinstance(key, tuple) and key[0] == "same":
            return key[1]
        return self._known.setdefault(key, len(self._known))


def _kept(v: Value) -> Hashable:
    """What a store keeps; how caches pack it is compared with their layout."""
    assert v.state is not None
    store = v.scope.states.get(v.state)
    return None if store is None else (type(store).__name__, str(store.shape), store.dtype, getattr(store, "keep", 0))


# --- telling -------------------------------------------------------------------------------------
class Word(NamedTuple):
    """A node as it is compared with others: its op, and where its operands come from."""

    kind: str
    op: Any
    training: bool


def _words(nodes: Iterable[Node]) -> list[Word]:
    """The nodes of a group, and before each the tables it reads of the step, which all layers share."""
    words: list[Word] = []
    seen: set[Node] = set()
    for node in nodes:
        for v in node.ins:
            if v.step is not None and v.node is not None and v.node.op.fields and v.node not in seen:
                seen.add(v.node)
                words.append(Word(v.node.op.kind, v.node.op, training=False))
        words.append(Word(node.op.kind, node.op, training=isinstance(node.op, Effect | Detach)))
    return words


def _told(group: str, a: list[Node], b: list[Node], *, training: bool) -> Iterator[Change]:
    """Ops of a group that differ in a field, or are only on one side."""
    left, right = _words(a), _words(b)
    kinds = [[w.kind for w in words] for words in (left, right)]
    # the alignment must not depend on which side is which
    flip = kinds[0] > kinds[1]
    first, second = (kinds[1], kinds[0]) if flip else (kinds[0], kinds[1])
    known: set[Change] = set()
    for tag, i, j, k, n in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        span = ((k, n), (i, j)) if flip else ((i, j), (k, n))
        ones, others = left[slice(*span[0])], right[slice(*span[1])]
        if tag == "equal":
            found = [c for one, other in zip(ones, others, strict=True) for c in _fields(one, other)]
        else:
            alone = all(w.training for w in (*ones, *others))
            found = [("ops", _listed(ones), _listed(others), alone)]
        for what, before, after, alone in found:
            change = (group, what, before, after, training or alone)
            if change not in known:
                known.add(change)
                yield change


def _fields(a: Word, b: Word) -> Iterator[tuple[str, str, str, bool]]:
    for name in a.op.fields:
        one, other = getattr(a.op, name), getattr(b.op, name)
        if one != other and name not in (*SIZES, *PLACES):
            yield f"{a.kind}: {name}", *_values(one, other), a.training


def _anywhere(op: Op) -> Op:
    """An op wherever its numbers lie."""
    there = {name: getattr(type(op), name) for name in PLACES if name in op.fields}
    return op.replaced(**there) if there else op


def _values(a: Any, b: Any) -> tuple[str, str]:
    one, other = texts(a, b)
    return tuple(f"{v:.6g}" if isinstance(v, float) else said for v, said in ((a, one), (b, other)))  # type: ignore[return-value]


def _listed(words: list[Word]) -> str:
    if not words:
        return "none"
    names = [w.kind for w in words]
    rest = f", {len(names) - MOST_OPS} more" if len(names) > MOST_OPS else ""
    return ", ".join(names[:MOST_OPS]) + rest
