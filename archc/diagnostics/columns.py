"""How wide text is on a terminal: tabs, wide and combining characters."""

from __future__ import annotations

import unicodedata

from archc.record import dataclass

TAB = 4


def width(character: str) -> int:
    """The columns a character takes: 2 for wide ones, 0 for combining and invisible ones, `TAB` for a tab."""
    if " " <= character <= "~":
        return 1
    if character == "\t":
        return TAB
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def printable(text: str) -> str:
    """The text with tabs as spaces and control characters as `�`, of the same width."""
    return "".join(
        " " * TAB if c == "\t" else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c
        for c in text
    )


def columns(text: str) -> int:
    """The columns a text takes."""
    return sum(map(width, text))


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a line that fits, and where the marked stretch lies in it, in columns from 0."""

    text: str
    start: int
    length: int


def window(line: str, start: int, end: int, room: int) -> Window:
    """The part of ``line`` around characters ``start:end`` (from 0) that fits in ``room`` columns, `…` where it is cut.

    The mark is one column wide at least, and ends with the window.
    """
    start = min(max(start, 0), len(line))
    end = min(max(end, start), len(line))
    left, right = 0, len(line)
    if columns(line) > room:
        # What follows the mark gets two thirds of the room at least, what that leaves goes to what stands before it.
        tail = columns(line[start : start + room])
        left, spare = start, room - 2 - min(tail, 2 * room // 3)
        while left > 0 and width(line[left - 1]) <= spare:
            left -= 1
            spare -= width(line[left])
        right, spare = left, room - 2
        while right < len(line) and width(line[right]) <= spare:
            spare -= width(line[right])
            right += 1
    before = "…" if left > 0 else ""
    shown = before + printable(line[left:right]) + ("…" if right < len(line) else "")
    at = columns(before) + columns(line[left:start])
    return Window(shown, at, max(columns(line[start : max(min(end, right), start)]), 1))
