"""Lines of generated C++, and the names in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count

WIDTH = 120
"""Columns of a line."""

RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        T t t0 b d round end first i j k l m n lo hi act slices slice numbers alignas and asm auto bool break
        case catch char class const constexpr continue decltype default delete do double else enum explicit
        export extern false float for friend goto if inline int long main mutable namespace new not operator or
        private protected public register return short signed sizeof static std struct switch template this
        throw true try typedef typename union unsigned using virtual void volatile while xor INFINITY NAN Lanes
        Words Halves Parts bfloat16 columns error exponential larger lanes limited logarithm outer project
        rounded sigmoid softplus tangent unproject unproject_rows in_slices slices_of
        """,
    )
)
"""Names that generated text, what every file carries, and C++ have a meaning for."""


class Lines:
    """Text in blocks, with names that are given once."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self._taken = {*taken, *RESERVED}

    def line(self, text: str) -> None:
        """Writes a line."""
        self.lines.append("    " * self.depth + text if text else "")

    def listed(self, head: str, items: Iterable[str], end: str = ";") -> None:
        """Writes a list, broken where lines would be too long."""
        text, wide = head, WIDTH - 4 * self.depth
        for i, item in enumerate(items):
            piece = (", " if i else "") + item
            if i and len(text.rsplit("\n", 1)[-1]) + len(piece) + 2 > wide:
                text += ",\n" + "    " * (self.depth + 1) + item
            else:
                text += piece
        self.line(text + end)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines within braces."""
        self.line(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    def name(self, hint: str) -> str:
        """A name that nothing has yet."""
        found = (
            hint if hint not in self._taken else next(n for i in count(2) if (n := f"{hint}_{i}") not in self._taken)
        )
        self._taken.add(found)
        return found
