"""Spans, the sink and the error."""

from __future__ import annotations

import pytest

from archc.diagnostics import ArchError, Diagnostic, Sink, Source, Span

SOURCE = Source("a.arch", "one\ntwo words\n")


def at(line: int, column: int) -> Span:
    return Span(SOURCE, line, column, line, column + 1)


def test_text_of_a_span():
    assert Span(SOURCE, 2, 1, 2, 4).text == "two"
    assert Span(SOURCE, 1, 2, 2, 4).text == "ne\ntwo"
    assert Span(SOURCE, 9, 1, 9, 2).text == ""
    assert str(at(2, 5)) == "a.arch:2:5"
    assert Span(SOURCE, 1, 1, 1, 2).to(at(2, 3)).text == "one\ntwo"


def test_a_sink_keeps_one_of_a_kind_in_order_of_place():
    sink = Sink()
    late, early = (
        Diagnostic(code="E0001", message="late", span=at(2, 1)),
        Diagnostic(code="E0001", message="early", span=at(1, 1)),
    )
    nowhere = Diagnostic(code="E0102", message="nowhere", severity="warning")
    for d in (
        nowhere,
        late,
        early,
        Diagnostic(code="E0001", message="again", span=at(2, 1)),
        Diagnostic(code="E0002", message="other", span=at(2, 1)),
    ):
        sink.add(d)
    assert [d.message for d in sink.in_order()] == ["early", "late", "other", "nowhere"]
    assert [d.message for d in sink.errors] == ["late", "early", "other"]


def test_raise_errors():
    sink = Sink()
    sink.add(Diagnostic(code="W0001", message="only a warning", severity="warning"))
    sink.raise_errors()
    sink.add(Diagnostic(code="E0001", message="bad", span=at(1, 2)))
    with pytest.raises(ArchError, match=r"E0001: bad \(a\.arch:1:2\)") as caught:
        sink.raise_errors()
    assert [d.code for d in caught.value.diagnostics] == ["E0001", "W0001"]
