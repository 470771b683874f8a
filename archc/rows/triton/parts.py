"""Values put together of others side by side; and which of the streams of a value are equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from archc.rows.elements import Element, Elements, places
from archc.rows.rules import Add, Const, Pad, Pointwise, RowMax, RowSum, const
from archc.rows.value import Row


def parts(value: Row) -> list[tuple[int, Row]]:
    """What a value is put together of, each with the place in the line of its streams; the value itself if of nothing.

    Gradients of parts that were taken from a line are padded with zeros and added up.
    """
    found = _padded(value)
    if found is None:
        return [(0, value)]
    zero, made, end = const(value.program, 0.0), [], 0
    for start, part in sorted(found, key=lambda part: part[0]):
        if start < end:
            return [(0, value)]
        made += [(i, zero) for i in range(end, start)]
        made.append((start, part))
        end = start + math.prod(part.streams)
    return [*made, *((i, zero) for i in range(end, math.prod(value.streams)))]


def _padded(value: Row) -> list[tuple[int, Row]] | None:
    if isinstance(value.rule, Pad):
        return [(value.rule.start, value.args[0])]
    if isinstance(value.rule, Add):
        some = [_padded(a) for a in value.args]
        return [part for each in some if each is not None for part in each] if None not in some else None
    return None


class Equal(Elements):
    """Elements of values by which it shows what is equal or known, and nothing is written."""

    def __init__(self) -> None:
        self._names: dict[str, Element] = {}
        self._made: dict[int, list[Element]] = {}

    def made(self, value: Row) -> list[Element]:
        """The elements of a value: equal ones are equal."""
        if value.id not in self._made:
            self._made[value.id] = self._written(value)
        return self._made[value.id]

    def _written(self, value: Row) -> list[Element]:
        if isinstance(value.rule, RowSum | RowMax):
            return [self.bind(f"{type(value.rule).__name__}({e})", "") for e in self.made(value.args[0])]
        if value.args or isinstance(value.rule, Const):
            try:
                return self.combine(value, [self.made(a) for a in value.args], "")
            except TypeError:  # an op of its own: nothing is known of it
                pass
        return [self.bind(f"{value.id} {p}", "") for p in places(value.streams)]

    def bind(self, text: str, hint: str) -> Element:
        return self._names.setdefault(text, Element(f"x{len(self._names)}"))

    def show(self, element: Element) -> str:
        return element.text if element.number is None else repr(element.number)

    def pointwise(self, rule: Pointwise, x: str) -> str:
        return f"{rule!r} of {x}"

    def larger(self, a: str, b: str) -> str:
        return f"larger({a}, {b})"


def equal(values: Sequence[Row]) -> list[list[Element]]:
    """For each value its elements: equal ones, and numbers, wherever that is known."""
    known = Equal()
    return [known.made(v) for v in values]
