"""Diagnostics for people: expected output written by hand."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from archc.diagnostics import Diagnostic, Related, Source, Span
from archc.diagnostics.columns import columns, printable, window
from archc.diagnostics.render import render

SOURCE = Source(
    "specs/a.arch",
    'arch 1\nmodel m {\n  norm = rms { epz = 1e-6 }\n\tname\t= "日本", x = @\r\n}\n' + "\n" * 5 + "end = 1 +\n  2\n",
)


def span(line: int, column: int, end_column: int, end_line: int | None = None) -> Span:
    return Span(SOURCE, line, column, end_line or line, end_column)


def text(diagnostic: Diagnostic, **options) -> list[str]:
    return render([diagnostic], **options).split("\n")


def test_message_place_mark_and_help():
    found = Diagnostic(
        code="E0203", message="`rms` has no field `epz`", span=span(3, 16, 19), help="did you mean `eps`?"
    )
    assert text(found) == [
        "error[E0203]: `rms` has no field `epz`",
        " --> specs/a.arch:3:16",
        "  |",
        "3 |   norm = rms { epz = 1e-6 }",
        "  |                ^^^",
        "  = help: did you mean `eps`?",
        "",
    ]


def test_context_and_related():
    related = (Related(span=span(11, 1, 4), message="first defined here"),)
    found = Diagnostic(
        code="W0001",
        severity="warning",
        message="m",
        span=span(3, 3, 7),
        context=span(2, 1, 2, 5),
        related=related,
        help="one\ntwo",
    )
    assert text(found) == [
        "warning[W0001]: m",
        "  --> specs/a.arch:3:3",
        "   |",
        " 2 | model m {",
        " 3 |   norm = rms { epz = 1e-6 }",
        "   |   ^^^^",
        "   = help: one",
        "           two",
        "   = note: first defined here",
        "  --> specs/a.arch:11:1",
        "   |",
        "11 | end = 1 +",
        "   | ^^^",
        "",
    ]


def test_context_further_up_is_set_apart():
    found = Diagnostic(code="E0001", message="m", span=span(3, 3, 7), context=span(1, 1, 2, 5))
    assert text(found)[3:6] == ["1 | arch 1", "...", "3 |   norm = rms { epz = 1e-6 }"]


def test_spans_over_lines_show_the_first_and_the_last():
    found = Diagnostic(code="E0001", message="m", span=span(11, 7, 4, 12))
    assert text(found)[3:] == ["11 | end = 1 +", "   |       ^^^", "12 |   2", "   |   ^", ""]
    found = Diagnostic(code="E0001", message="m", span=span(2, 9, 2, 5))
    assert text(found)[3:] == ["2 | model m {", "  |         ^", "...", "5 | }", "  | ^", ""]


def test_tabs_and_wide_characters_keep_the_mark_in_place():
    lines = text(Diagnostic(code="E0002", message="m", span=span(4, 19, 20)))
    assert lines[3:5] == ['4 |     name    = "日本", x = @', "  | " + " " * 26 + "^"]
    assert columns(lines[3][: lines[3].index("@")]) == columns(lines[4][: lines[4].index("^")])


def test_without_a_place():
    assert text(Diagnostic(code="E0102", message="there is no file `x`", help="look")) == [
        "error[E0102]: there is no file `x`",
        "  = help: look",
        "",
    ]


def test_no_width_is_still_marked():
    assert text(Diagnostic(code="E0001", message="m", span=span(11, 10, 10)))[4] == "   |          ^"


def test_past_the_end_of_the_text():
    assert text(Diagnostic(code="E0001", message="m", span=span(99, 7, 9)))[3:5] == ["99 |", "   | ^"]


def test_colour_changes_nothing_but_colour():
    found = Diagnostic(code="E0203", message="m", span=span(3, 16, 19), help="h")
    coloured = render([found], colour=True)
    assert "\x1b[1;31merror[E0203]\x1b[0m" in coloured
    assert "\x1b" not in render([found])
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render([found])


def test_control_characters_do_not_reach_the_terminal():
    source = Source("a", "x = \x1b[31m@")
    assert "\x1b" not in render([Diagnostic(code="E0002", message="m", span=Span(source, 1, 10, 1, 11))])


def test_several_are_set_apart_by_a_blank_line():
    one = Diagnostic(code="E0001", message="m")
    assert render([one, one]) == "error[E0001]: m\n\nerror[E0001]: m\n"
    assert render([]) == ""


def test_long_lines_are_cut_around_the_mark():
    source = Source("a", "x" * 500 + "HERE" + "y" * 500)
    lines = render([Diagnostic(code="E0001", message="m", span=Span(source, 1, 501, 1, 505))], width=80).split("\n")
    shown, mark = lines[3], lines[4]
    assert len(shown) <= 80
    assert shown.startswith("1 | …x")
    assert shown.endswith("y…")
    assert shown[mark.index("^") : mark.rindex("^") + 1] == "HERE"


LINES = st.text(st.sampled_from("abc \té日\u200b"), max_size=60)


@settings(deadline=None)
@given(LINES, st.integers(0, 60), st.integers(0, 12), st.integers(20, 50))
def test_the_window_fits_and_marks_the_same_text(line, start, length, room):
    start, end = min(start, len(line)), min(start + length, len(line))
    shown = window(line, start, end, room)
    assert columns(shown.text) <= room
    marked, at = "", 0
    for character in shown.text:
        if shown.start <= at < shown.start + shown.length:
            marked += character
        at += columns(character)
    wanted = printable(line[start:end]).replace("\u200b", "")
    if columns(wanted) <= room // 2:
        assert shown.length == max(columns(wanted), 1)
        assert marked.replace("\u200b", "")[: len(wanted)] == wanted
    else:
        assert wanted.startswith(marked.replace("\u200b", "").rstrip("…"))
