"""Every code that resolve reports: its failing example gives exactly it, its fixed example nothing, and none is
reported without a table entry.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import archc
from archc.diagnostics.registry import Code, codes
from archc.resolve import check_text

_AREAS = ("names", "values", "schedules", "checks", "lints")
_CODES = [c for c in codes().values() if c.area in _AREAS and c.example == "arch"]


@pytest.mark.parametrize("code", _CODES, ids=lambda c: c.id)
def test_the_failing_example_gives_exactly_its_code(code: Code) -> None:
    found = check_text(code.failing)
    assert {d.code for d in found} == {code.id}, found
    assert all(d.severity == code.severity for d in found)


@pytest.mark.parametrize("code", _CODES, ids=lambda c: c.id)
def test_the_fixed_example_is_clean(code: Code) -> None:
    assert check_text(code.fixed) == ()


def _reported() -> set[str]:
    """The codes that resolve and what drawers doubt report."""
    files = (path for part in ("resolve", "drawers") for path in (Path(archc.__file__).parent / part).rglob("*.py"))
    return {code for path in files for code in re.findall(r'"([EW]0\d{3})"', path.read_text())}


def test_every_code_that_resolve_reports_is_explained() -> None:
    used = _reported()
    assert len(used) > 30
    assert used <= codes().keys()


def test_every_explained_code_of_these_areas_is_reported_somewhere() -> None:
    assert {c.id for c in codes().values() if c.area in _AREAS} <= _reported()
