"""Lines of Python in blocks, names that are not taken, and values that are used once written where they are used."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

LONGEST = 110
"""Columns of a line that values are put into, its indent included."""

_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_ONE = re.compile(r"[\w.]+")


class Line(NamedTuple):
    """A line, or an assignment of ``text`` to ``target``."""

    depth: int
    text: str
    target: str | None = None

    def __str__(self) -> str:
        text = self.text if self.target is None else f"{self.target} = {self.text}"
        return "    " * self.depth + text if text else ""


class Lines:
    """The body of a function."""

    def __init__(self, taken: Collection[str] = (), depth: int = 1) -> None:
        self.written: list[Line] = []
        self.depth = depth
        self.taken = set(taken)
        self._passing: set[str] = set()

    def line(self, text: str) -> None:
        """Writes a line."""
        self.written.append(Line(self.depth, text))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Indents what is written inside."""
        self.line(head)
        self.depth += 1
        yield
        self.depth -= 1

    def name(self, hint: str) -> str:
        """A name that was not taken."""
        found, n = hint, 2
        while found in self.taken:
            found, n = f"{hint}_{n}", n + 1
        self.taken.add(found)
        return found

    def assign(self, text: str, hint: str, *, passing: bool = False) -> str:
        """Writes an assignment to a new name; one that is ``passing`` may be written into its only use instead."""
        name = self.name(hint)
        self.written.append(Line(self.depth, text, name))
        if passing:
            self._passing.add(name)
        return name

    def reassign(self, name: str, text: str) -> None:
        """Writes an assignment to a name that there is."""
        self.written.append(Line(self.depth, text, name))

    def text(self) -> str:
        """What was written."""
        return "\n".join(map(str, _inlined(self.written, self._passing)))


def _inlined(lines: list[Line], passing: Collection[str]) -> list[Line]:
    """Lines with assignments to ``passing`` names that are used once put in where they are used.

    A value does not move into or out of a block, nor past an assignment to what it is made of.
    """
    names = [_NAME.findall(line.text) for line in lines]
    uses: dict[str, list[int]] = {}
    for i, found in enumerate(names):
        for name in found:
            if name in passing:
                uses.setdefault(name, []).append(i)
    assigned: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        if line.target is not None:
            assigned.setdefault(line.target, []).append(i)
    out: list[Line | None] = list(lines)
    for i, line in enumerate(lines):
        name = line.target
        if name not in passing or name is None or len(uses.get(name, ())) != 1:
            continue
        (at,) = uses[name]
        here, there = out[i], out[at]
        if here is None or there is None or any(lines[j].depth != line.depth for j in range(i, at + 1)):
            continue
        if any(i < j < at for made_of in _NAME.findall(here.text) for j in assigned.get(made_of, ())):
            continue
        text = _put(there.text, name, here.text)
        if len(str(there._replace(text=text))) <= LONGEST:
            out[at], out[i] = there._replace(text=text), None
    return [line for line in out if line is not None]


def _put(text: str, name: str, value: str) -> str:
    """A text with a value in place of a name, in parentheses where they are needed."""
    match = re.search(rf"(?<![\w.]){name}(?!\w)", text)
    assert match is not None, f"{name} in {text}"
    before, after = text[: match.start()], text[match.end() :]
    first = not before or before.endswith(("(", ", ", " + "))
    alone = (not before or before.endswith(("(", ", "))) and (not after or after.startswith((")", ",")))
    added = first and (not after or after.startswith((")", ",", " + ", " * ")))
    product = not re.search(r" [+/-] |^-", _outside(value))
    sums = first and (not after or after.startswith((")", ",", " + "))) and not re.search(" - |^-", _outside(value))
    if not (alone or _ONE.fullmatch(_outside(value)) or (added and product) or sums):
        value = f"({value})"
    return before + value + after


def _outside(text: str) -> str:
    """A text without what stands in its parentheses."""
    while (shorter := re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", text)) != text:
        text = shorter
    return text
