"""Loads, stores and sums over programs that stand one after another in memory and in the text, as one call each, of
device functions of `kernels/library.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

FEWEST = 3
"""Accesses from which on a call says more than they do."""

_ACCESSES = {
    "columns": re.compile(r"column\((?P<at>\w+, \d+)\)(?P<inside>)(?P<what>)"),
    "load_numbers": re.compile(r"tl\.load\((?P<at>[^,]+?)(?P<inside>, mask=inside, other=0\.0)?\)(?P<what>)"),
    "add_to_shares": re.compile(
        r"tl\.store\((?P<at>[^,]+), tl\.where\((?P<inside>again), tl\.load\((?P=at)\), 0\.0\)"
        r" \+ tl\.sum\(tl\.where\(inside, (?P<what>.+), 0\.0\), 0\)\)"
    ),
    "store_numbers": re.compile(r"tl\.store\((?P<at>[^,]+), (?P<what>(?:(?!, mask=).)+)(?P<inside>, mask=inside)?\)"),
}
_PLACES = (
    (re.compile(r"(\w+) \+ \((\d+) \* T \+ t\)"), "T", 0),
    (re.compile(r"(\w+) \+ t()"), "T", 0),
    (re.compile(r"(\w+) \+ (\d+) \* TILE \+ t"), "TILE", 0),
    (re.compile(r"(\w+) \+ TILE \+ t()"), "TILE", 1),
    (re.compile(r"(\w+) \+ t()"), "TILE", 0),
    (re.compile(r"(\w+ \+ \(\(.+) \+ (\d+)\) \* TILE \+ t\)"), "TILE", 0),
    (re.compile(r"(\w+), (\d+)"), "column", 0),
    (re.compile(r"(.+) \+ (\d+)"), "1", 0),
    (re.compile(r"(.+)()"), "1", 0),
)
"""Addresses: what is equal for all of a run, which of its numbers stands there, and how far apart they are."""


class Access(NamedTuple):
    """One load, store or sum."""

    call: str
    inside: bool
    at: str
    what: str
    """What is stored, or added."""


class Run(NamedTuple):
    """Accesses of numbers ``apart`` from each other."""

    some: Sequence[Access]
    apart: str

    def text(self) -> str:
        """The call."""
        first = self.some[0]
        if first.call == "columns":
            return f"columns({first.at}, {len(self.some)})"
        if first.call == "load_numbers":
            return f"load_numbers({first.at}, {self.apart}, {len(self.some)}{', inside' * first.inside})"
        some = f"({', '.join(a.what for a in self.some)})"
        if first.call == "add_to_shares":
            return f"add_to_shares({first.at}, {some}, again, inside)"
        return f"store_numbers({first.at}, {self.apart}, {some}{', inside' * first.inside})"


def access(text: str, *, assigned: bool) -> Access | None:
    """The access that a line is, if it is no more than that; ``assigned``: to a name."""
    for call, pattern in _ACCESSES.items():
        found = pattern.fullmatch(text) if assigned == (call in ("load_numbers", "columns")) else None
        if found is not None and _balanced(found["at"]) and _balanced(found["what"]):
            return Access(call, bool(found["inside"]), found["at"], found["what"])
    return None


def longest(some: Sequence[Access]) -> Run:
    """The longest run that accesses begin with."""
    first = some[0]
    best = Run(some[:1], "1")
    for key, apart, number in _places(first.at):
        if first.call == "add_to_shares" and apart != "1":
            continue
        end = 1
        while end < len(some):
            other = some[end]
            if (other.call, other.inside) != (first.call, first.inside):
                break
            if (key, apart, number + end) not in _places(other.at):
                break
            end += 1
        if end > len(best.some):
            best = Run(some[:end], apart)
    return best


def _places(at: str) -> list[tuple[str, str, int]]:
    """What an address may be of: what all of its run have, how far apart they are, and the how manieth it is."""
    return list(_read(at))


def _read(at: str) -> Iterator[tuple[str, str, int]]:
    for pattern, apart, number in _PLACES:
        found = pattern.fullmatch(at)
        if found is not None and _balanced(found[1].replace(" + ((", " + ")):
            yield found[1], apart, int(found[2] or number)


def _balanced(text: str) -> bool:
    depth = 0
    for c in text:
        depth += (c in "([") - (c in ")]")
        if depth < 0:
            return False
    return depth == 0
