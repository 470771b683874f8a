"""JSON, SARIF and GitHub commands, against what their readers demand."""

from __future__ import annotations

import json

from archc.diagnostics import Diagnostic, Related, Source, Span
from archc.diagnostics.render import FORMATS, render

SOURCE = Source("my specs/ä.arch", "a = 1\nb = 2\n")
FOUND = [
    Diagnostic(
        code="E0001",
        message="expected 100% of `x`, found `y`",
        span=Span(SOURCE, 2, 5, 2, 6),
        help="line one\nline two",
        related=(Related(span=Span(SOURCE, 1, 1, 1, 2), message="here"),),
    ),
    Diagnostic(code="W0001", severity="warning", message="unused", span=Span(SOURCE, 1, 1, 2, 3)),
    Diagnostic(code="E0102", severity="note", message="no place"),
]


def test_json():
    document = json.loads(render(FOUND, "json"))
    assert document["format_version"] == 1
    first, second, third = document["diagnostics"]
    assert first == {
        "code": "E0001",
        "severity": "error",
        "message": "expected 100% of `x`, found `y`",
        "span": {"file": "my specs/ä.arch", "line": 2, "column": 5, "end_line": 2, "end_column": 6},
        "context": None,
        "help": "line one\nline two",
        "related": [
            {
                "message": "here",
                "span": {"file": "my specs/ä.arch", "line": 1, "column": 1, "end_line": 1, "end_column": 2},
            }
        ],
    }
    assert second["severity"] == "warning"
    assert third["span"] is None


def test_sarif():
    log = json.loads(render(FOUND, "sarif"))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == ["E0001", "W0001", "E0102"]
    assert rules[0]["shortDescription"]["text"] == "unexpected token"
    # Results point at their rules, levels are SARIF's, and paths are URIs.
    assert [rules[r["ruleIndex"]]["id"] for r in run["results"]] == [r["ruleId"] for r in run["results"]]
    assert [r["level"] for r in run["results"]] == ["error", "warning", "note"]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "my%20specs/%C3%A4.arch"
    assert place["region"] == {"startLine": 2, "startColumn": 5, "endLine": 2, "endColumn": 6}
    assert run["results"][0]["relatedLocations"][0]["message"]["text"] == "here"
    assert "locations" not in run["results"][2]


def test_github():
    lines = render(FOUND, "github").splitlines()
    assert lines == [
        (
            "::error file=my specs/ä.arch,line=2,endLine=2,col=5,endColumn=5,title=E0001"
            "::expected 100%25 of `x`, found `y`%0Ahelp: line one%0Aline two"
        ),
        "::warning file=my specs/ä.arch,line=1,endLine=2,title=W0001::unused",
        "::notice title=E0102::no place",
    ]


def test_github_properties_are_escaped():
    source = Source("a,b:c%.arch", "x")
    (line,) = render([Diagnostic(code="E0001", message="m", span=Span(source, 1, 1, 1, 2))], "github").splitlines()
    assert line.startswith("::error file=a%2Cb%3Ac%25.arch,line=1,")


def test_nothing_found():
    assert [render([], f) for f in ("text", "github")] == ["", ""]
    assert json.loads(render([], "json"))["diagnostics"] == []
    assert json.loads(render([], "sarif"))["runs"][0]["results"] == []
    assert set(FORMATS) == {"text", "json", "sarif", "github"}
