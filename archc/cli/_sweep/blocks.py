"""Tables of any width: titles on several lines, columns that find no room in a further block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archc.record import dataclass

GAP = 2
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the words of its title, and its cells."""

    name: str
    cells: list[str]

    @property
    def title(self) -> list[str]:
        """The lines of its title: as few as keep it no wider than its cells or its longest word."""
        import textwrap

        return textwrap.wrap(self.name, self.width, break_long_words=False, break_on_hyphens=False) or [""]

    @property
    def width(self) -> int:
        """Characters of its widest cell, or of the longest word of its title."""
        return max(map(len, [*self.cells, *self.name.split()]), default=0)


def blocks(heads: Sequence[Column], figures: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """The figures in as few tables as fit ``width`` columns, in order; every table begins with the ``heads``."""
    taken = sum(column.width + GAP for column in heads)
    block, used = list(heads), taken
    for figure in figures:
        if len(block) > len(heads) and used + figure.width > width:
            yield block
            block, used = list(heads), taken
        block.append(figure)
        used += figure.width + GAP
    yield block
