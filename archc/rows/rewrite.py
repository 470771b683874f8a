"""What makes row programs cheap to run: fewer passes over the row, fewer products, sums over tokens last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from archc.rows.names import called
from archc.rows.rules import (
    Add,
    Clip,
    Pad,
    Product,
    Project,
    RowMax,
    RowSum,
    TokenSum,
    add,
    product,
)
from archc.rows.value import Axes, Row, Rule, Streams, order

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rebuilt(values: Sequence[Row], change: Callable[[Row, Row], Row]) -> list[Row]:
    """The values made anew from the leaves up: ``change`` (value, the same of new operands) says what stands there."""
    known: dict[int, Row] = {}
    for value in order(values):
        args = tuple(known[a.id] for a in value.args)
        same = all(a is b for a, b in zip(args, value.args, strict=True))
        known[value.id] = change(value, value if same else value.program.make(value.rule, *args))
        carried(value, known[value.id])
    return [known[v.id] for v in values]


def carried(old: Row, new: Row) -> None:
    """Calls a value what the one was called in whose place it stands."""
    program = old.program
    if old.id in program.names:
        program.named(program.names[old.id], new)
    if old.id in program.hints:
        program.hinted(program.hints[old.id], new)
        if isinstance(new.rule, TokenSum):
            program.hinted(program.hints[old.id], new.args[0])


class Levels:
    """How many passes over the row must have ended before a value can be made."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def of(self, value: Row) -> int:
        """The level of a value."""
        for v in order([value]) if value.id not in self._known else ():
            if v.id not in self._known:
                below = max((self._known[a.id] for a in v.args), default=0)
                self._known[v.id] = below + isinstance(v.rule, RowSum | RowMax | Project)
        return self._known[value.id]


def hoisted(values: Sequence[Row]) -> list[Row]:
    """With sums over the row that later rows wait for written without what an earlier pass gives.

    The sum of (sum of a_k x_k)^2 over the row becomes a^T (x x^T) a: the sums of products of x need no a, so they are
    made in the pass that makes a.
    """
    levels = Levels()
    waited = {v.id for out in values if out.row for v in order([out])}

    def change(old: Row, new: Row) -> Row:
        if not (isinstance(new.rule, RowSum) and old.id in waited and levels.of(new.args[0]) > 0):
            return new
        made = _sum(new.args[0], levels)
        if made.rule != new.rule and _square(new.args[0]):
            made.program.hinted("sum_of_products", made)
            # Where what is mixed cancels, rounding leaves a little more than all of it, or less than nothing
            made = made.program.make(Clip(low=0.0, high=math.inf), made)
        # Sums of parameters would be made again for every token
        alone = any(isinstance(v.rule, RowSum) and not v.token for v in order([made]))
        return new if alone else made

    return rebuilt(values, change)


def _square(x: Row) -> bool:
    """Whether x is something times itself."""
    if not isinstance(x.rule, Product) or len(x.args) != 2:
        return False
    (left, right), _ = x.rule.letters()
    return left == right and x.args[0] is x.args[1]


def _sum(x: Row, levels: Levels) -> Row:
    """The sum over the row of x, factors and mixes that do not vary along it pulled out."""
    if isinstance(x.rule, Add) and all(a.row for a in x.args):
        return add(*(_sum(a, levels) for a in x.args))
    if not isinstance(x.rule, Product) or len(x.args) != 2:
        return _summed(x)
    (left, right), out = x.rule.letters()
    a, b = x.args
    if not a.row:
        return product(x.rule.spec, a, _sum(b, levels))
    if not b.row:
        return product(x.rule.spec, _sum(a, levels), b)
    for inner, other, mine, others in ((a, b, left, right), (b, a, right, left)):
        if levels.of(inner) == 0:
            continue
        if isinstance(inner.rule, Add):
            parts = [
                _sum(product(f"{mine if t.streams else ''},{others}->{out}", t, other), levels) for t in inner.args
            ]
            return add(*parts)
        if isinstance(inner.rule, Product) and len(inner.args) == 2 and not all(v.row for v in inner.args):
            return _pulled(inner, other, mine, others, out, levels)
    return _summed(x)


def _summed(x: Row) -> Row:
    """The sum over the row of x itself; of the products of all streams of a row it is called their Gram matrix."""
    made = x.program.make(RowSum(), x)
    if isinstance(x.rule, Product) and len(x.args) == 2 and x.args[0] is x.args[1]:
        made.program.hinted("gram" if len(x.streams) == 2 else "sum_of_squares", made)
    return made


def _pulled(inner: Row, other: Row, mine: str, others: str, out: str, levels: Levels) -> Row:
    """The sum over the row of inner * other, inner being a mix of a row by numbers: those numbers times a sum."""
    assert isinstance(inner.rule, Product)
    (first, second), made = inner.rule.letters()
    numbers, row = inner.args
    if numbers.row:
        numbers, row, first, second = row, numbers, second, first
    names = dict(zip(made, mine, strict=True))
    for letter in first + second:
        taken = {*names.values(), *mine, *others, *out}
        names.setdefault(letter, next(c for c in "uvwxyzstpq" if c not in taken))
    first, second = ("".join(names[c] for c in letters) for letters in (first, second))
    kept = "".join(dict.fromkeys(c for c in second + others if c in first + out))
    sums = _sum(product(f"{second},{others}->{kept}", row, other), levels)
    made = product(f"{first},{kept}->{out}", numbers, sums)
    weights, what = called(numbers), called(sums)
    return made.program.hinted(f"{weights}_{what}", made) if weights and what else made


class Matrix(Rule):
    """The matrix, [x, out], of the linear map x -> product(numbers, x) with these letters."""

    numbers: str
    x: str
    out: str
    sizes: Streams

    def axes(self, numbers: Row) -> Axes:
        return Axes(streams=self.sizes, token=numbers.token)

    def value(self, numbers: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        size = dict(zip(self.numbers, numbers.shape[1:-1], strict=True))
        size |= dict(zip(self.x + self.out, self.sizes, strict=True))
        eye = {c: np.eye(size[c]) for c in self.x if c in self.out}
        renamed = {c: c.upper() for c in eye}
        out = "".join(renamed.get(c, c) for c in self.out)
        numbers_at = self.numbers
        spec = ",".join([f"T{numbers_at}Z", *(f"{c}{renamed[c]}" for c in eye)])
        free = [c for c in self.x + out if c not in numbers_at + "".join(f"{a}{b}" for a, b in renamed.items())]
        ones = [np.ones(size[c]) for c in free]
        spec = ",".join([spec, *free])
        return np.einsum(f"{spec}->T{self.x}{out}Z", numbers, *eye.values(), *ones)


def collected(values: Sequence[Row]) -> list[Row]:
    """With sums of mixes of one row by different numbers written as one mix, or as one scale where none mixes."""

    def change(old: Row, new: Row) -> Row:
        if not isinstance(new.rule, Add) or not new.row:
            return new
        terms: list[Row] = []

        def flatten(v: Row) -> None:
            if isinstance(v.rule, Add) and v.row:
                for a in v.args:
                    flatten(a)
            else:
                terms.append(v)

        flatten(new)
        mixes: dict[int, tuple[Row, list[tuple[Row, str, str, str]]]] = {}
        rest: list[Row] = []
        for term in terms:
            found = _mix(term, new.streams)
            if found is None:
                rest.append(term)
            else:
                mixes.setdefault(found[0].id, (found[0], []))[1].append(found[1:])
        if all(len(some) == 1 for _, some in mixes.values()):
            return new
        for x, some in mixes.values():
            if new.streams and all(second == out and set(first) <= set(out) for _, first, second, out in some):
                rest += _scaled(x, [(numbers, first, out) for numbers, first, _, out in some])
                continue
            sizes = (*x.streams, *new.streams)
            matrix: Row | float = 0.0
            name = called(x)
            for numbers, first, second, out in some:
                if name and x.program.hints.get(numbers.id) == f"mix_of_{name}":
                    x.program.hints[numbers.id] = f"part_of_mix_of_{name}"
                matrix = add(x.program.make(Matrix(numbers=first, x=second, out=out, sizes=sizes), numbers), matrix)
            assert isinstance(matrix, Row)
            a, b = "ab"[: len(x.streams)], "pq"[: len(new.streams)]
            if name:
                x.program.hinted(f"mix_of_{name}", matrix)
            rest.append(product(f"{a}{b},{a}->{b}", matrix, x))
            if name:
                x.program.hinted(f"mixed_{name}", rest[-1])
        total, whole = rest[0], called(old)
        for term in rest[1:]:
            if whole and total is not rest[0]:
                new.program.hinted(f"part_of_{whole.removeprefix('part_of_')}", total)
            total = add(total, term)
        return total

    return rebuilt(values, change)


def _scaled(x: Row, some: Sequence[tuple[Row, str, str]]) -> list[Row]:
    """The sum of a row's streams, each times numbers of its own: their matrix would be zero but for the diagonal."""
    parts: dict[str, Row] = {}
    for numbers, first, out in some:
        letters = "".join("abcd"[out.index(c)] for c in first)
        parts[letters] = add(parts[letters], numbers) if letters in parts else numbers
    own = "abcd"[: len(x.streams)]
    made = [product(f"{letters},{own}->{own}", numbers, x) for letters, numbers in parts.items()]
    name = called(x)
    if name and len(made) == 1:
        x.program.hinted(f"scaled_{name}", made[0])
        x.program.hinted(f"scale_of_{name}", *parts.values())
    return made


def _mix(term: Row, streams: Streams) -> tuple[Row, Row, str, str, str] | None:
    """Of a mix of a row by numbers: the row, the numbers, and the letters of numbers, row and result."""
    if not isinstance(term.rule, Product) or len(term.args) != 2 or term.streams != streams:
        return None
    (first, second), out = term.rule.letters()
    numbers, x = term.args
    if numbers.row == x.row:
        return None
    return (x, numbers, first, second, out) if x.row else (numbers, x, second, first, out)


def summed_last(values: Sequence[Row]) -> list[Row]:
    """With sums over tokens outside of what puts them in place and adds them up."""

    def change(_: Row, new: Row) -> Row:
        make = new.program.make
        if isinstance(new.rule, Pad) and isinstance(new.args[0].rule, TokenSum):
            return make(TokenSum(), make(new.rule, new.args[0].args[0]))
        if isinstance(new.rule, Add) and all(isinstance(a.rule, TokenSum) for a in new.args):
            return make(TokenSum(), add(*(a.args[0] for a in new.args)))
        return new

    return rebuilt(values, change)
