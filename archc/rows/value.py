"""Values of row programs: what each token has, a few streams of it, and a row of channels.

A row program works on every token alone. A value has up to three kinds of axes: the token, *streams* (tiny and known:
printers unroll them) and the *row* (thousands of channels: printers loop over it). A value without a token is a
parameter or what is made of these; one without a row is a number for each stream of a token.

Equal values are one object: a program keeps what it has built, so what two ops share is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field
from itertools import count
from typing import TYPE_CHECKING, Any

from archc.record import Record, dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

Streams = tuple[int, ...]


class Axes(Record):
    """The axes of a value."""

    streams: Streams = ()
    row: bool = False
    token: bool = True

    def __str__(self) -> str:
        return "".join(["T" * self.token, str(list(self.streams)) * bool(self.streams), "D" * self.row]) or "1"


class Rule(Record):
    """What an op of row programs is: its axes, its gradient, its value. One entry serves both printers."""

    def axes(self, *args: Row) -> Axes:
        """The axes of the result."""
        raise NotImplementedError

    def vjp(self, out: Row, grad: Row) -> Iterable[Row | None]:
        """For each operand of ``out`` what of ``grad``, the gradient of it, is its; None where that is nothing.

        Axes that an operand lacks may be left in: they are summed over (`fit`).
        """
        raise NotImplementedError

    def value(self, *args: NDArray[Any]) -> NDArray[Any]:
        """Its result: arrays are [tokens or 1, *streams, channels or 1]."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Row:
    """A value of a row program: a rule and its operands."""

    rule: Rule
    args: tuple[Row, ...]
    axes: Axes
    program: Program = field(repr=False)
    id: int

    @property
    def streams(self) -> Streams:
        """Its stream axes."""
        return self.axes.streams

    @property
    def row(self) -> bool:
        """Whether it spans a row."""
        return self.axes.row

    @property
    def token(self) -> bool:
        """Whether each token has its own."""
        return self.axes.token

    def __repr__(self) -> str:
        return f"<{type(self.rule).__name__} {self.axes}>"


class Program:
    """Builds values, each once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Row] = {}
        self._ids = count()
        self.names: dict[int, str] = {}
        """What values are called by those who give and take them."""
        self.hints: dict[int, str] = {}
        """What others are called in what is printed, by what they are."""

    def make(self, rule: Rule, *args: Row) -> Row:
        """The value of ``rule`` on ``args``."""
        key = (rule, *(a.id for a in args))
        if key not in self._known:
            self._known[key] = Row(rule, args, rule.axes(*args), self, next(self._ids))
        return self._known[key]

    def named(self, name: str, value: Row) -> Row:
        """The value, which is called so from now on unless it had a name."""
        self.names.setdefault(value.id, name)
        return value

    def hinted(self, hint: str, value: Row) -> Row:
        """The value, which is called so where it has no name, unless it was already."""
        if value.args:
            self.hints.setdefault(value.id, hint)
        return value


def order(values: Iterable[Row]) -> list[Row]:
    """What ``values`` are made of, operands first, each once; they themselves too."""
    seen: dict[int, Row] = {}
    stack: list[tuple[Row, Iterator[Row]]] = []
    for value in values:
        if value.id in seen:
            continue
        stack.append((value, iter(value.args)))
        while stack:
            here, rest = stack[-1]
            following = next((a for a in rest if a.id not in seen), None)
            if following is None:
                stack.pop()
                seen.setdefault(here.id, here)
            else:
                stack.append((following, iter(following.args)))
    return list(seen.values())
