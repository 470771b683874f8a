"""The tables of codes: complete, and every example does what it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import archc
from archc.api import lookup
from archc.diagnostics import ArchError, Diagnostic
from archc.diagnostics.registry import AREAS, codes
from archc.resolve import check_text, load_text, run_checks
from tests.syntax.walk import parsed

CODES = codes()
COMPILED = [c for c in CODES.values() if c.example == "arch"]


def pipeline(text: str) -> tuple[Diagnostic, ...]:
    """What all of `archc check` finds in a text: syntax, names, values, lints; then shapes and `check` statements."""
    found = list(check_text(text))
    if not found:
        for model in load_text(text):
            try:
                found += run_checks(model, lookup(model))
            except ArchError as error:
                found += error.diagnostics
    return tuple(found)


@pytest.mark.parametrize("code", COMPILED, ids=lambda c: c.id)
def test_the_failing_example_gives_this_code_and_no_other(code):
    found = pipeline(code.failing)
    assert {d.code for d in found} == {code.id}
    assert {d.severity for d in found} == {code.severity}


@pytest.mark.parametrize("code", COMPILED, ids=lambda c: c.id)
def test_the_fixed_example_gives_nothing(code):
    assert pipeline(code.fixed) == ()


@pytest.mark.parametrize("code", [c for c in COMPILED if c.area == "syntax"], ids=lambda c: c.id)
def test_syntax_examples_by_the_parser_alone(code):
    assert [d.code for d in parsed(code.failing)[1]] == [code.id]
    assert parsed(code.fixed)[1] == ()


@pytest.mark.parametrize("code", CODES.values(), ids=lambda c: c.id)
def test_form(code):
    assert re.fullmatch(r"(E0[0-6]\d\d|W0\d\d\d)", code.id)
    assert code.area in AREAS.values()
    assert code.title
    assert not code.title.endswith(".")
    assert code.explanation.strip().endswith(".")
    assert code.failing != code.fixed


def test_every_code_that_is_raised_is_explained():
    """The source of archc mentions no code without a table entry, and no entry is dead."""
    raised: set[str] = set()
    for path in Path(archc.__file__).parent.rglob("*.py"):
        if "codes" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        raised.update(s for s in strings if re.fullmatch(r"[EW]0\d\d\d", s))
    assert raised - CODES.keys() == set()
    assert CODES.keys() - raised == set()


def test_ids_are_in_order_and_in_the_table_of_their_area():
    assert list(CODES) == sorted(CODES)
    for code in CODES.values():
        path = Path(archc.__file__).parent / "diagnostics" / "codes" / f"{code.area}.py"
        assert f'"{code.id}"' in path.read_text(encoding="utf-8")
