"""`archc explain`."""

from __future__ import annotations

import json

from click.testing import CliRunner

from archc.cli import main
from archc.diagnostics.registry import codes


def run(*args: str):
    return CliRunner().invoke(main, ["explain", *args])


def test_a_code():
    result = run("e0001")
    code = codes()["E0001"]
    assert result.exit_code == 0
    assert result.output.startswith("error[E0001]: unexpected token\n")
    assert code.explanation.strip() in result.output
    for example in (code.failing, code.fixed):
        assert all(f"    {line}".rstrip() in result.output for line in example.splitlines())
    assert run("W0001").output.startswith("warning[W0001]")


def test_json():
    document = json.loads(run("E0001", "--format", "json").output)
    assert document["id"] == "E0001"
    assert document["area"] == "syntax"
    assert document["severity"] == "error"
    assert {"title", "explanation", "failing", "fixed"} <= document.keys()


def test_all():
    output = run().output
    assert all(f"{c.id}  {c.title}" in output for c in codes().values())
    assert [c["id"] for c in json.loads(run("--format", "json").output)] == list(codes())


def test_an_unknown_code():
    result = run("E0O01")
    assert result.exit_code == 2
    assert "did you mean E0001?" in result.output
    result = run("nonsense")
    assert result.exit_code == 2
    assert "`archc explain` lists all codes" in result.output
