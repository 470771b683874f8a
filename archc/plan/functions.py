"""Names of the functions that chains of ops become, and of the parameters that these take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count

from archc.graph import Node, Scope, Stack, Value
from archc.ops import OPS
from archc.ops.row import Binary
from archc.plan.groups import is_work

WORDS = {"rms_norm": "norm", "layer_norm": "norm", "signed_sqrt": "root", "sqrt_softplus": "softplus"}
"""What ops are called in names of functions, where that is not their kind."""

SIGNS = {"+": "add", "-": "subtract", "*": "scale", "/": "divide"}

PLAIN = frozenset({"binary", "cat", "clamp", "either", "inverse_rms", "project", "sigmoid", "tanh", "tokenwise"})
"""Arithmetic that a name does not tell, unless it is of the longest rows of a function."""


VAGUE = frozenset({"out", "x", "y"})
"""What drawers call values that could be anything."""

FEW = 3
"""Ops up to which a name says of what they make something; longer chains have names that are like no other."""


def named(functions: Sequence[Scope]) -> dict[Scope, str]:
    """Names for functions, of which equal ones share one: their ops in order (`mix_sinkhorn_collapse_norm`), in modules
    that specs choose after what they make (`q_norm_rotate`), `final_add_norm` where layers have ended, and
    `ahead_norm_cat` for multi-token prediction alone. They do not depend on which other functions there are, unless two
    would have one name.
    """
    forms: dict[tuple, list[Scope]] = {}
    for function in functions:
        forms.setdefault(form(function), []).append(function)
    ops = {name for op in OPS.values() for name in op.needs}
    found: dict[Scope, str] = {}
    taken = set(ops)
    for alike in forms.values():
        base = "_".join(_told(alike))
        base += "_rows" * (base in ops)
        name = next(n for n in chain((base,), (f"{base}_{i}" for i in count(2))) if n not in taken)
        taken.add(name)
        found |= dict.fromkeys(alike, name)
    return found


def _told(alike: Sequence[Scope]) -> list[str]:
    """What equal functions make, as far as it tells them from others with their ops, and the ops.

    Where they make different things with modules of one name (`kv_norm`), that is told instead.
    """
    ops = words(alike[0])
    places = [scope for scope in alike if not any(above.ahead for above in _above(scope))]
    subjects = dict.fromkeys(map(_subject, places)) or {"ahead": None}
    known = [name for name in subjects if name]
    if len(known) < len(subjects) or (len(ops) > FEW and not {"final", "ahead"}.issuperset(known)):
        return ops
    modules = {tuple((word(n), n.name) for n in scope.nodes() if n.name and _module(n)) for scope in alike}
    if len(known) > 1 and len(modules) == 1 and (own := dict(*modules)):
        return [own.get(op) or op for op in ops]
    return [*known, *ops] if len(known) <= 2 else ops


def _subject(function: Scope) -> str:
    """What a function makes in the module that calls it; nothing where that is a layer, or nameless."""
    module, *_ = above = list(_above(function))
    if any(isinstance(item, Stack) for item in module.items):
        return "final"
    name = module.hints.get(function.returns[0], "") if any(scope.slot for scope in above) else ""
    return "" if name in VAGUE else name


def _above(scope: Scope) -> Iterator[Scope]:
    """The modules around a scope, from inside out."""
    while scope.parent is not None:
        scope = scope.parent
        yield scope


def words(function: Scope) -> list[str]:
    """What a function does, in order, arithmetic with few numbers left out if there is anything else."""
    works = list(filter(is_work, function.nodes()))
    size = max(_size(v) for node in works for v in node.outs)
    told = [n for n in works if n.op.kind not in PLAIN or max(map(_size, n.outs)) == size]
    found = list(dict.fromkeys(map(word, told)))
    return found if len(found) > 1 else list(dict.fromkeys(map(word, works)))


def word(node: Node) -> str:
    """What a node does, in a word."""
    return SIGNS[node.op.sign] if isinstance(node.op, Binary) else WORDS.get(node.op.kind, node.op.kind)


def _size(value: Value) -> int:
    """Numbers of each token."""
    return math.prod(d for d in value.shape if isinstance(d, int))


def form(function: Scope) -> tuple:
    """What two functions have in common if they are the same: ops, how they are wired, types but for the number of
    tokens.
    """
    number: dict[Value, int] = {}

    def place(values: Iterable[Value]) -> tuple[int, ...]:
        return tuple(number.setdefault(v, len(number)) for v in values)

    def types(values: Iterable[Value]) -> tuple:
        return tuple((tuple(d if isinstance(d, int) else "" for d in v.shape), v.type.dtype) for v in values)

    nodes = tuple((n.op, place(n.ins), place(n.outs), types(n.ins), types(n.outs)) for n in function.nodes())
    return nodes, place(function.args), place(function.returns), tuple(v.param is None for v in function.args)


def parameter_names(function: Scope) -> dict[Value, str]:
    """Names for the parameters that a function takes: their own, after that of the op where modules call it so."""
    found: dict[Value, str] = {}
    for node in function.nodes():
        for value in node.ins:
            if value.param is not None and value not in found:
                owner, _, own = value.param.name.rpartition(".")
                base = f"{word(node)}_{own}" if owner and _module(node) else own
                numbered = (base, *(f"{base}_{i}" for i in range(2, len(found) + 2)))
                found[value] = next(name for name in numbered if name not in found.values())
    return found


def argument_names(function: Scope) -> dict[Value, str]:
    """Names for what a function takes without one: that of what a view looks at, or of what is made of it first."""
    found: dict[Value, str] = {}
    for value in function.args:
        if value.param is None and value.step is None and value not in function.hints:
            name = _seen(value, function) or _becomes(value, function)
            if name is not None:
                found[value] = name
    return found


def _seen(value: Value, function: Scope) -> str | None:
    """The name of what a value is a view of."""
    while value.node is not None and value.node.op.view and value.node.ins:
        value = value.node.ins[0]
        if value in function.hints:
            return function.hints[value]
    return None


def _becomes(value: Value, function: Scope) -> str | None:
    """The name of what a function makes of a value, as far as it makes but one thing of it."""
    while True:
        readers = [node for node in function.nodes() if value in node.ins]
        if len(readers) != 1 or len(readers[0].outs) != 1:
            return None
        (value,) = readers[0].outs
        if value in function.hints:
            return function.hints[value]


def _module(node: Node) -> bool:
    return node.name is not None and node.op.module(*(v.type for v in node.ins)) is not None
