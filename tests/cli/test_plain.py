"""Plain tables and lines are those of rich, character by character."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table as RichTable

from archc.cli._plain import Column, Line, Table

texts = st.lists(st.text(alphabet="abcXYZ019,.-_:;()<%", min_size=1, max_size=14), max_size=14).flatmap(
    lambda words: st.sampled_from([" ", " ", "  "]).map(lambda gap: gap.join(words))
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, RichTable]:
    """The same table twice."""
    n = draw(st.integers(1, 6))
    header = draw(st.booleans())
    columns = [Column(draw(texts), draw(st.sampled_from(("left", "right")))) for _ in range(n)]
    plain = Table(*columns, header=header)
    rich = RichTable(box=None, pad_edge=False, show_header=header)
    for column in columns:
        rich.add_column(column.title, justify=column.justify)
    for _ in range(draw(st.integers(0 if header else 1, 5))):
        cells = [draw(texts) for _ in range(n)]
        plain.add(*cells)
        rich.add_row(*cells)
    return plain, rich


def printed(part: object, width: int) -> list[str]:
    """What rich prints, without blanks at the ends of lines."""
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as found:
        console.print(part)
    return [line.rstrip() for line in found.get().split("\n")[:-1]]


@given(tables(), st.integers(40, 200))
def test_tables_are_those_of_rich(both: tuple[Table, RichTable], width: int) -> None:
    plain, rich = both
    assert list(plain.lines(width, styled=False)) == printed(rich, width)


@given(texts, st.integers(10, 120))
def test_lines_are_those_of_rich(text: str, width: int) -> None:
    assert list(Line(text).lines(width, styled=False)) == printed(text, width)


@given(tables(), texts, st.integers(0, 40), st.integers(40, 120))
def test_styles_change_nothing_that_is_read(both: tuple[Table, RichTable], text: str, until: int, width: int) -> None:
    for part in (both[0], Line(text, "bold", until)):
        shown = list(part.lines(width, styled=True))
        bare = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in shown]
        assert bare == list(part.lines(width, styled=False))


def test_headers_and_rows_are_styled() -> None:
    table = Table(Column("name"), Column("n", "right", "dim"))
    table.add("a", "1")
    table.add("all", "10", style="bold")
    b, d, end = "\x1b[1m", "\x1b[2m", "\x1b[0m"
    assert list(table.lines(80, styled=True)) == [
        f"{b}name{end}   {b}n{end}",
        f"a      {d}1{end}",
        f"{b}all{end}   {b}10{end}",
    ]
