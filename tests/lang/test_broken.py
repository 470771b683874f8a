"""Nine planted mistakes, nine diagnostics: none missed, none echoed."""

from __future__ import annotations

from pathlib import Path

import pytest

from archc.diagnostics import ArchError
from archc.resolve import check_text, load

BROKEN = Path(__file__).parent / "broken.arch"

MISTAKES = [
    (3, "E0001", "", "a value is missing"),
    (6, "E0003", "[", "a bracket is never closed"),
    (8, "E0002", "@", "a stray character"),
    (9, "E0110", "attention gqa gqa", "an equals sign is missing"),
    (10, "E0001", "==", "a comparison where a field is set"),
    (11, "E0001", ",", "a value is missing before a comma"),
    (12, "E0203", "atention", "a misspelt slot"),
    (13, "E0203", "epz", "a misspelt field"),
    (15, "E0003", "[", "a bracket is never closed"),
]


def test_exactly_nine():
    found = check_text(BROKEN.read_text(encoding="utf-8"), "broken.arch")
    assert [(d.span.line, d.code, d.span.text) for d in found if d.span] == [
        (line, code, text) for line, code, text, _ in MISTAKES
    ]
    assert len(found) == len(MISTAKES)
    assert {d.severity for d in found} == {"error"}


def test_the_same_from_a_file():
    with pytest.raises(ArchError) as caught:
        load(BROKEN)
    assert [(d.span.line, d.code) for d in caught.value.diagnostics if d.span] == [
        (line, code) for line, code, _, _ in MISTAKES
    ]


@pytest.mark.parametrize("drop", range(len(MISTAKES)), ids=lambda i: MISTAKES[i][3].replace(" ", "_"))
def test_each_mistake_is_found_whatever_the_others(drop):
    """Mending one line takes away its diagnostic and no other."""
    mended = {
        3: "  dim = 7168",
        6: "  schedule { ffn = [mlp * 61]",
        8: "  context = 4Ki",
        9: "  attention gqa = gqa { heads = 128 }",
        10: "  head = untied",
        11: "  ffn mlp = swiglu { hidden = 64, bias = false }",
        12: "",
        13: "  norm = rms { eps = 1e-6 }",
        15: "",
    }
    lines = BROKEN.read_text(encoding="utf-8").split("\n")
    line = MISTAKES[drop][0]
    lines[line - 1] = mended[line]
    found = check_text("\n".join(lines))
    assert [(d.span.line, d.code) for d in found if d.span] == [(n, code) for n, code, _, _ in MISTAKES if n != line]
