"""Lines of Python in blocks, names that are not taken, and values that are used once written where they are used."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from archc.rows.triton.runs import FEWEST, Access, access, longest

LONGEST = 110
"""Columns of a line, its indent included, unless it cannot be broken."""

_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_ONE = re.compile(r"[\w.]+")


class Line(NamedTuple):
    """A line, or an assignment of ``text`` to ``target``."""

    depth: int
    text: str
    target: str | None = None

    def __str__(self) -> str:
        text = self.text if self.target is None else f"{self.target} = {self.text}"
        return "\n".join("    " * self.depth + part for part in broken(text, LONGEST - 4 * self.depth)) if text else ""

    @property
    def width(self) -> int:
        """Columns that it takes if it is not broken."""
        return 4 * self.depth + len(self.text) + (0 if self.target is None else len(self.target) + 3)


class Lines:
    """The body of a function."""

    def __init__(self, taken: Collection[str] = (), depth: int = 1) -> None:
        self.written: list[Line] = []
        self.depth = depth
        self.taken = set(taken)
        self._passing: set[str] = set()
        self._values: set[str] = set()
        self._given = frozenset(taken)
        self._numbered: dict[str, str] = {}
        """What names with a number would be without it."""

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
        if found != hint:
            self._numbered[found] = hint
        return found

    def assign(self, text: str, hint: str, *, passing: bool = False) -> str:
        """Writes an assignment to a new name, if something reads it later; ``passing``: perhaps into its only use."""
        name = self.name(hint)
        self.written.append(Line(self.depth, text, name))
        self._values.add(name)
        if passing:
            self._passing.add(name)
        return name

    def reassign(self, name: str, text: str) -> None:
        """Writes an assignment to a name that there is."""
        self.written.append(Line(self.depth, text, name))

    def text(self) -> str:
        """What was written."""
        lines = _inlined(_used(self.written, self._values), self._passing)
        numbered = {name: hint for name, hint in self._numbered.items() if hint not in self._given}
        return "\n".join(map(str, _called(_freed(lines, numbered))))


def _used(lines: list[Line], values: Collection[str]) -> list[Line]:
    """Lines without assignments to names of ``values`` that nothing reads."""
    read: set[str] = set()
    kept: list[Line] = []
    for line in reversed(lines):
        if line.target not in values or line.target in read:
            read.update(_NAME.findall(line.text))
            kept.append(line)
    return kept[::-1]


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
        if there._replace(text=text).width <= LONGEST:
            out[at], out[i] = there._replace(text=text), None
    return [line for line in out if line is not None]


def _called(lines: list[Line]) -> list[Line]:
    """Lines with runs of accesses as one call each."""
    made, i = [], 0
    while i < len(lines):
        some: list[Access] = []
        for line in lines[i:]:
            found = access(line.text, assigned=line.target is not None)
            if found is None or line.depth != lines[i].depth:
                break
            some.append(found)
        run = longest(some) if some else None
        if run is None or len(run.some) < FEWEST:
            made.append(lines[i])
            i += 1
            continue
        targets = [line.target for line in lines[i : i + len(run.some)] if line.target is not None]
        made.append(Line(lines[i].depth, f"{', '.join(targets)}{' = ' * bool(targets)}{run.text()}"))
        i += len(run.some)
    return made


def _freed(lines: list[Line], numbered: Mapping[str, str]) -> list[Line]:
    """Lines in which names that only differ by a number are one where each is within a loop that has ended before the
    next begins: after a loop Triton knows nothing of what was first assigned in it.
    """
    loops: list[tuple[int, ...]] = []
    """Of each line the loops around it, by the line that each begins with."""
    open_: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        while open_ and line.text and line.depth <= open_[-1][1]:
            open_.pop()
        loops.append(tuple(at for at, _ in open_))
        if line.text.startswith("for "):
            open_.append((i, line.depth))
    uses: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        for name in {*_NAME.findall(line.text), *_NAME.findall(line.target or "")}:
            uses.setdefault(name, []).append(i)
    instead: dict[str, str] = {}
    for name, hint in numbered.items():
        here = uses.get(name, [])
        around = set.intersection(*(set(loops[i]) for i in here)) if here else set()
        apart = all(around - set(loops[i]) and set(loops[i]) - around for i in uses.get(hint, ()))
        if around and apart:
            instead[name] = hint
            uses.setdefault(hint, []).extend(here)
    if not instead:
        return lines

    def renamed(text: str) -> str:
        return _NAME.sub(lambda found: instead.get(found.group(), found.group()), text)

    return [x._replace(text=renamed(x.text), target=x.target and renamed(x.target)) for x in lines]


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


def broken(text: str, longest: int) -> list[str]:
    """A statement in lines that are not longer, where it is a call, a sum, or gives names to a call's results."""
    if len(text) <= longest or text.startswith("#"):
        return [text]
    left, sign, right = _assignment(text)
    head = [f"{left} {sign} "] if sign else [""]
    if len(left) > longest // 2 and ", " in left:
        head = ["(", *packed(_split(left, ", "), longest), ") = "]
    fits = len(head) > 1 and len(head[-1] + right) <= longest
    rest = [right] if fits else _broken(right, longest, bare=bool(sign))
    return [*head[:-1], head[-1] + rest[0], *rest[1:]]


def _broken(text: str, longest: int, *, bare: bool) -> list[str]:
    """An expression in lines; a sum or product that stands ``bare`` needs parentheses around its lines."""
    for signs in ((" + ", " - "), (" * ", " / ")):
        terms = _split(text, *signs)
        if len(terms) > 1:
            starts = [0, *itertools.accumulate(len(term) + 3 for term in terms)]
            shown = [text[start - 2 : start] if start else "" for start in starts]
            some = [line for sign, term in zip(shown, terms, strict=False) for line in _term(sign, term, longest - 4)]
            return ["(", *(f"    {line}" for line in some), ")"] if bare else some
    if text.endswith(")") and (opened := _opening(text)) >= 0:
        return [text[: opened + 1], *packed(_split(text[opened + 1 : -1], ", "), longest), ")"]
    return [text]


def _term(sign: str, term: str, longest: int) -> list[str]:
    """A term of a sum with its sign, in lines."""
    if len(sign + term) <= longest:
        return [sign + term]
    first, *rest = _broken(term, longest, bare=True)
    return [sign + first, *rest]


def packed(parts: Sequence[str], longest: int) -> list[str]:
    """Parts with commas after them, as many in an indented line as fit."""
    if len(parts) == 1 and len(parts[0]) + 4 > longest:  # what stands in parentheses, or a lone argument
        return [f"    {line}" for line in _broken(parts[0], longest - 4, bare=False)]
    lines, line = [], "   "
    for part in parts:
        if len(line) + len(part) + 2 > longest and line.strip():
            lines.append(line)
            line = "   "
        if len(part) + 5 > longest:
            lines += [f"    {some}" for some in _broken(part, longest - 5, bare=True)]
            lines[-1] += ","
            continue
        line += f" {part},"
    return [*lines, line] if line.strip() else lines


def _assignment(text: str) -> tuple[str, str, str]:
    """What is assigned to, the sign, and what is assigned; the first two are empty where nothing is."""
    for sign in (" = ", " += "):
        left, *rest = _split(text, sign)
        if rest:
            return left, sign.strip(), text[len(left) + len(sign) :]
    return "", "", text


def _split(text: str, *at: str) -> list[str]:
    """A text in parts, at what stands between them outside of brackets."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        found = next((sign for sign in at if depth == 0 and text.startswith(sign, i)), None)
        if found is not None:
            parts.append(text[start:i])
            start = i = i + len(found)
            continue
        i += 1
    return [*parts, text[start:]]


def _opening(text: str) -> int:
    """The place of the parenthesis that the last character closes."""
    depth = 0
    for i in range(len(text) - 1, -1, -1):
        depth += (text[i] == ")") - (text[i] == "(")
        if depth == 0:
            return i
    return -1


def wrapped(head: str, parts: Sequence[str], tail: str, depth: int = 0) -> list[str]:
    """An indented line of parts between its head and tail, in several where it is too long."""
    indent = "    " * depth
    one = head + ", ".join(parts) + tail
    if len(indent) + len(one) <= LONGEST:
        return [indent + one]
    some = [head, *packed(parts, LONGEST - len(indent)), tail.removeprefix(",")]
    return [indent + line for line in some]
