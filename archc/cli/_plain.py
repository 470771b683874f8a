"""Tables and lines as text, for commands that must start fast: rich takes as long to load as a whole model to plan.

What is printed is what rich prints of the same cells with the same settings (``tests/cli/test_plain.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import click

from archc.cli._console import PIPED_WIDTH, columns
from archc.cli.options import colour

Style = Literal["", "bold", "dim"]
Justify = Literal["left", "right"]

GAP = 2
"""Blanks between columns."""

_CODES = {"bold": "1", "dim": "2"}
_WORD = re.compile(r"\s*\S+\s*")


class Line(NamedTuple):
    """A line of text, of which the first ``until`` characters (by default all) have a style."""

    text: str
    style: Style = ""
    until: int | None = None

    def lines(self, width: int, styled: bool) -> Iterator[str]:
        """The line, wrapped."""
        left = len(self.text) if self.until is None else self.until
        for piece in _pieces(self.text, width, fold=True):
            shown = piece.rstrip()
            yield _styled(shown[:left], self.style) + shown[left:] if styled and left > 0 else shown
            left -= len(piece)


class Column(NamedTuple):
    """A column: its title, its side, and the style of its cells."""

    title: str = ""
    justify: Justify = "left"
    style: Style = ""


class Table:
    """Aligned columns without lines; where they are too wide, the widest give way first and their words wrap.

    Cells are one line of text each. Without ``header`` titles are not printed.
    """

    style: Style

    def __init__(self, *columns: Column, header: bool = True, style: Style = "") -> None:
        self.columns, self.header, self.style = columns, header, style
        self.rows: list[tuple[tuple[str, ...], Style]] = []

    def add(self, *cells: str, style: Style = "") -> None:
        """Adds a row."""
        self.rows.append((cells, style))

    def lines(self, width: int, styled: bool) -> Iterator[str]:
        """The table in so many columns of a terminal."""
        titles = tuple(column.title for column in self.columns)
        inner = self._widths(width, [*([titles] if self.header else []), *(cells for cells, _ in self.rows)])
        if self.header:
            bold: list[Style] = ["bold"] * len(inner)
            yield from self._row(titles, inner, bold if styled else None, bottom=True)
        for cells, style in self.rows:
            styles: list[Style] = [style or column.style or self.style for column in self.columns]
            yield from self._row(cells, inner, styles if styled else None)

    def _widths(self, width: int, rows: Sequence[Sequence[str]]) -> list[int]:
        """Widths of the columns, without the blanks beside them."""
        last = len(self.columns) - 1
        sides = [(i > 0) + (i < last) for i in range(last + 1)]
        natural = (max((len(row[i]) for row in rows), default=0) for i in range(last + 1))
        full = [min(n + side, width) or 1 for n, side in zip(natural, sides, strict=True)]
        return [max(w - side, 0) for w, side in zip(_narrowed(full, width), sides, strict=True)]

    def _row(
        self, cells: Sequence[str], widths: Sequence[int], styles: Sequence[Style] | None, *, bottom: bool = False
    ) -> Iterator[str]:
        found = [wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
        height = max(map(len, found))
        for k in range(height):
            shown = []
            for i, (pieces, width) in enumerate(zip(found, widths, strict=True)):
                at = k - (height - len(pieces)) if bottom else k
                piece = pieces[at] if 0 <= at < len(pieces) else ""
                blank = " " * (width - len(piece))
                text = _styled(piece, styles[i]) if styles else piece
                shown.append(blank + text if self.columns[i].justify == "right" else text + blank)
            yield (" " * GAP).join(shown).rstrip()


def write(*parts: str | Line | Table, width: int = PIPED_WIDTH) -> None:
    """Writes lines and tables to standard output: as wide as the terminal; piped ``width``, unless COLUMNS says."""
    styled, room = colour(), columns(width)
    shown = (Line(part) if isinstance(part, str) else part for part in parts)
    click.echo("".join(f"{line}\n" for part in shown for line in part.lines(room, styled)), nl=False)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, broken between words; words that are too long end in an ellipsis."""
    lines = (line.rstrip() for line in _pieces(text, width, fold=False))
    return [line if len(line) <= width else line[: max(width - 1, 0)] + "…" for line in lines]


def _pieces(text: str, width: int, *, fold: bool) -> list[str]:
    """A text in pieces, each a line with the blanks after it; words that are too long are a piece each, or folded."""
    breaks: list[int] = []
    used = 0
    for match in _WORD.finditer(text):
        start, word = match.start(), match.group()
        long = len(word.rstrip())
        if width - used >= long:
            used += len(word)
        elif long > width and fold:
            folds = range(0, len(word), max(width, 1))
            breaks += (start + i for i in folds if start + i)
            used = len(word) - folds[-1]
        else:
            if start and (used or long > width):
                breaks.append(start)
            used = len(word)
    return [text[a:b] for a, b in zip([0, *breaks], [*breaks, len(text)], strict=True)]


def _narrowed(widths: list[int], room: int) -> list[int]:
    """Widths that fit: the widest columns come down to the next widest, together; then all come down alike."""
    while (over := sum(widths) - room) > 0:
        most = max(widths)
        step = most - max((w for w in widths if w != most), default=0)
        if not step or not any(w != most for w in widths):
            break
        widths = _reduced(widths, over, [step if w == most else 0 for w in widths])
    return _reduced(widths, over, widths) if (over := sum(widths) - room) > 0 else widths


def _reduced(widths: list[int], over: int, most: list[int]) -> list[int]:
    """Widths with ``over`` taken away in equal parts, of each at ``most`` so much."""
    parts = sum(1 for m in most if m)
    found = []
    for width, limit in zip(widths, most, strict=True):
        taken = min(limit, round(over / parts)) if limit and parts else 0
        over, parts = over - taken, parts - (1 if limit else 0)
        found.append(width - taken)
    return found


def _styled(text: str, style: Style) -> str:
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text else text
