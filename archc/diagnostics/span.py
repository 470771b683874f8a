"""Where something stands in a source text."""

from __future__ import annotations

from dataclasses import field
from functools import cached_property

from archc.record import dataclass


@dataclass(frozen=True, eq=False)
class Source:
    """One text: a file, or something typed on the command line (`--set`, `-P`)."""

    name: str
    """How messages call it: a path as the user wrote it, or ``<--set>``."""
    text: str = field(repr=False)

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines of the text, without their ends."""
        return tuple(self.text.split("\n"))


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source. Lines and columns count from 1; ``end_column`` is one past the last character."""

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of ``other``."""
        return Span(self.source, self.line, self.column, other.end_line, other.end_column)

    @property
    def text(self) -> str:
        """The text that the span covers."""
        lines = self.source.lines[self.line - 1 : self.end_line]
        if not lines:
            return ""
        if len(lines) == 1:
            return lines[0][self.column - 1 : self.end_column - 1]
        return "\n".join((lines[0][self.column - 1 :], *lines[1:-1], lines[-1][: self.end_column - 1]))

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"
