"""Element by element: every value as one expression for each of its streams, constants folded.

Printers say how a line is written, where a leaf is read, and what an op of its own looks like; the small algebra over
streams is the same for all of them.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from archc.rows.few_bits import Through
from archc.rows.rewrite import Matrix
from archc.rows.rules import Add, Const, Pad, Pointwise, Product, Spread, StreamMax, Take
from archc.rows.value import Row, Streams


class Element(NamedTuple):
    """What stands for one stream of a value: a name, or a number that is known."""

    text: str
    number: float | None = None


ZERO, ONE = Element("0", 0.0), Element("1", 1.0)


def literal(number: float) -> Element:
    """A number that is known."""
    return Element(repr(number), number)


def places(shape: Streams) -> list[tuple[int, ...]]:
    """The indices of a shape, the last axis fastest."""
    return list(itertools.product(*(range(n) for n in shape)))


class Elements(ABC):
    """Writes values of a program as elements."""

    @abstractmethod
    def bind(self, text: str, hint: str) -> Element:
        """Writes a line that gives an expression a name."""

    @abstractmethod
    def show(self, element: Element) -> str:
        """An element as it stands in an expression."""

    @abstractmethod
    def pointwise(self, rule: Pointwise, x: str) -> str:
        """A pointwise op of an element."""

    @abstractmethod
    def larger(self, a: str, b: str) -> str:
        """The larger of two."""

    def combine(self, value: Row, args: Sequence[Sequence[Element]], hint: str) -> list[Element]:
        """The elements of a value from those of its operands."""
        rule = value.rule
        names = _numbered(hint, value.streams)
        if isinstance(rule, Const):
            return [literal(rule.number)]
        if isinstance(rule, Add):
            count = max(map(len, args))
            left, right = (list(a) * (count // len(a)) for a in args)
            known: dict[frozenset[Element], Element] = {}  # of a symmetric matrix equal ones are written once
            for x, n in zip(zip(left, right, strict=True), names, strict=True):
                if frozenset(x) not in known:
                    known[frozenset(x)] = self.added(x, n)
            return [known[frozenset(x)] for x in zip(left, right, strict=True)]
        if isinstance(rule, Pointwise):
            return [self.bind(self.pointwise(rule, self.show(x)), n) for x, n in zip(args[0], names, strict=True)]
        if isinstance(rule, Product):
            return self.product(rule, value, args, names)
        if isinstance(rule, Take):
            return list(args[0][rule.start : rule.start + math.prod(rule.shape)])
        if isinstance(rule, Pad):
            after = math.prod(rule.shape) - rule.start - len(args[0])
            return [*[ZERO] * rule.start, *args[0], *[ZERO] * after]
        if isinstance(rule, Spread):
            at = dict(zip(places(value.args[0].streams), args[0], strict=True))
            return [at[tuple(place[rule.made.index(c)] for c in rule.kept)] for place in places(rule.sizes)]
        if isinstance(rule, StreamMax):
            width = len(args[0]) // len(names)
            return [self._largest(args[0][i * width : (i + 1) * width], n) for i, n in enumerate(names)]
        if isinstance(rule, Through):
            return list(args[1])
        if isinstance(rule, Matrix):
            return self._matrix(rule, value.args[0], args[0], names)
        raise TypeError(f"no elements of {rule}")

    def added(self, terms: Sequence[Element], hint: str) -> Element:
        """A sum."""
        known = math.fsum(t.number for t in terms if t.number is not None)
        shown = [self.show(t) for t in terms if t.number is None]
        if not shown:
            return literal(known)
        if known:
            shown.append(self.show(literal(known)))
        if len(shown) == 1:
            return next(t for t in terms if t.number is None)
        return self.bind(" + ".join(shown), hint)

    def product(
        self, rule: Product, value: Row, args: Sequence[Sequence[Element]], names: Sequence[str]
    ) -> list[Element]:
        """Sums of products over streams; equal ones (of a symmetric matrix) are written once."""
        ins, out = rule.letters()
        sizes = {c: n for s, a in zip(ins, value.args, strict=True) for c, n in zip(s, a.streams, strict=True)}
        over = [c for c in sizes if c not in out]
        at = [dict(zip(places(a.streams), e, strict=True)) for a, e in zip(value.args, args, strict=True)]
        made: dict[tuple[tuple[str, ...], ...], Element] = {}
        result = []
        for place, name in zip(places(tuple(sizes[c] for c in out)), names, strict=True):
            terms = []
            for rest in places(tuple(sizes[c] for c in over)):
                index = dict(zip(out, place, strict=True)) | dict(zip(over, rest, strict=True))
                factors = [m[tuple(index[c] for c in s)] for m, s in zip(at, ins, strict=True)]
                if not any(f.number == 0 for f in factors):
                    terms.append(factors)
            key = tuple(sorted(tuple(sorted(f.text for f in factors)) for factors in terms))
            if key not in made:
                made[key] = self._sum_of_products(terms, name)
            result.append(made[key])
        return result

    def _sum_of_products(self, terms: Sequence[Sequence[Element]], hint: str) -> Element:
        written, known, alone = [], 0.0, None
        for factors in terms:
            number = math.prod(f.number for f in factors if f.number is not None)
            names = [f for f in factors if f.number is None]
            if not names:
                known += number
                continue
            text = " * ".join(self.show(f) for f in names)
            alone = names[0] if len(names) == 1 and number == 1 else None
            if number == -1:
                text = f"-{text}"
            elif number != 1:
                text = f"{text} * {self.show(literal(number))}"
            written.append(text)
        if known:
            written.append(self.show(literal(known)))
        if not written:
            return ZERO if not known else literal(known)
        return alone if len(written) == 1 and alone is not None else self.bind(" + ".join(written), hint)

    def _largest(self, elements: Sequence[Element], hint: str) -> Element:
        text = self.show(elements[0])
        for element in elements[1:]:
            text = self.larger(text, self.show(element))
        return self.bind(text, hint) if len(elements) > 1 else elements[0]

    def _matrix(self, rule: Matrix, numbers: Row, given: Sequence[Element], names: Sequence[str]) -> list[Element]:
        sizes = dict(zip(rule.numbers, numbers.streams, strict=True))
        over = [c for c in rule.numbers if c not in rule.x + rule.out]
        at = dict(zip(places(numbers.streams), given, strict=True))
        result = []
        for place, name in zip(places(rule.sizes), names, strict=True):
            index: dict[str, int] = {}
            if any(index.setdefault(c, i) != i for c, i in zip(rule.x + rule.out, place, strict=True)):
                result.append(ZERO)
                continue
            some = []
            for rest in places(tuple(sizes[c] for c in over)):
                whole = index | dict(zip(over, rest, strict=True))
                some.append(at[tuple(whole[c] for c in rule.numbers)])
            result.append(self.added(some, name))
        return result


def _numbered(hint: str, streams: Streams) -> list[str]:
    """A name for each element."""
    return ["_".join((hint, *map(str, place))) for place in places(streams)]
