"""Every `.arch` file here says in comments what is wrong on the very line: `# E0203: text that the message contains`.

A line without such a comment has nothing wrong with it. Several on one line are separated by `;`. A line that ends
where the error is (an unclosed string) is announced on the line above: `# below: E0008: text`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from archc.resolve import check_text
from archc.syntax.format import format_text

HERE = Path(__file__).parent
FILES = [p for p in sorted(HERE.glob("*.arch")) if p.name != "broken.arch"]
MARK = re.compile(r"#\s*(?P<below>below: )?(?P<marks>[EW]\d{4}: .*)")


def announced(text: str) -> list[tuple[int, str, str]]:
    """What the comments say: line, code, part of the message."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = MARK.search(line)
        if match is not None:
            for mark in match["marks"].split(";"):
                code, _, message = mark.strip().partition(": ")
                found.append((number + bool(match["below"]), code, message))
    return sorted(found)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_exactly_what_the_comments_say(path):
    text = path.read_text(encoding="utf-8")
    expected = announced(text)
    found = check_text(text, path.name)
    assert sorted((d.span.line, d.code) for d in found if d.span) == [(line, code) for line, code, _ in expected]
    for line, code, message in expected:
        assert any(message in d.message for d in found if d.span and (d.span.line, d.code) == (line, code)), (
            line,
            code,
            message,
        )


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_formatting_does_not_move_or_change_what_is_found(path):
    text = path.read_text(encoding="utf-8")
    again = format_text(text)
    assert [(d.code, d.span.line if d.span else 0) for d in check_text(again)] == [
        (d.code, d.span.line if d.span else 0) for d in check_text(text)
    ]


def test_there_are_files_with_and_without_mistakes():
    counts = [len(announced(p.read_text(encoding="utf-8"))) for p in FILES]
    assert min(counts) == 0
    assert max(counts) >= 8
