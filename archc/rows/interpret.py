"""What a row program gives, run value by value with numpy: the reference of its printers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from archc.rows.rules import Const, Input, Param, Placeholder, Repeat, RepeatBack
from archc.rows.value import Row, order

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = Mapping[str, "NDArray[Any]"]


def run(values: Sequence[Row], given: Arrays) -> list[NDArray[Any]]:
    """The values, of leaves given by name as arrays of [tokens or 1, *streams, channels or 1]."""
    known: dict[int, NDArray[Any]] = {}
    _run(values, given, known)
    return [known[v.id] for v in values]


def _inside(value: Row) -> bool:
    """Whether a value belongs to the body of a repeat."""
    return any(isinstance(v.rule, Placeholder) for v in order([value]) if not isinstance(v.rule, Repeat | RepeatBack))


def _run(values: Sequence[Row], given: Arrays, known: dict[int, NDArray[Any]]) -> None:
    import numpy as np

    def get(v: Row) -> NDArray[Any]:
        if v.id not in known:
            known[v.id] = make(v)
        return known[v.id]

    def body(end: Row, at: dict[int, NDArray[Any]]) -> NDArray[Any]:
        inner = {**known, **at}
        _run([end], given, inner)
        return inner[end.id]

    def make(v: Row) -> NDArray[Any]:
        rule = v.rule
        if isinstance(rule, Const):
            return np.full((1, 1), rule.number)
        if isinstance(rule, Input | Param):
            return given[rule.name]
        if isinstance(rule, Repeat):
            start, state, end = v.args
            x = get(start)
            for _ in range(rule.times):
                x = body(end, {state.id: x})
            return x
        if isinstance(rule, RepeatBack):
            start, grad, state, end, cotangent, back = v.args
            states = [get(start)]
            for _ in range(rule.times - 1):
                states.append(body(end, {state.id: states[-1]}))
            g = get(grad)
            for x in reversed(states):
                g = body(back, {state.id: x, cotangent.id: g})
            return g
        return rule.value(*map(get, v.args))

    for value in values:
        get(value)
