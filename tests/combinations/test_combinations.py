"""Any drawers together make a model that is planned, printed and run, or a diagnostic that says why they do not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from archc.diagnostics import ArchError
from archc.drawers import drawer_class
from archc.plan import plan
from archc.resolve import load_text
from archc.schema import Model
from archc.schema.describe import describe
from archc.schema.model import ModelFields
from archc.schema.slots import slot_names
from tests.combinations import cover, whole
from tests.combinations.draw import universe
from tests.plan.test_agreement import Both

QUICK, ALL = 50, 500
NUMBERS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.slow) for n in range(QUICK, ALL))]
REFUSED = 0.1
"""The share of specs that may be refused, at most."""

CHECKS = (
    whole.trains,
    whole.counts,
    whole.keeps,
    whole.interprets,
    whole.obeys,
    whole.narrow_caches,
    whole.generates,
    whole.twin,
    whole.costs,
)
FIELDS = {
    name
    for cls in (ModelFields, *(drawer_class(slot, kind) for slot, kind in universe() if slot in slot_names()))
    for name in describe(cls)
}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_combination(number: int, tmp_path: Path) -> None:
    text = cover.texts(QUICK if number < QUICK else ALL)[number]
    try:
        model = load_text(text)[0]
        plan(model)
    except ArchError as refusal:
        says_why(text, refusal)
        return
    try:
        agrees(model, tmp_path)
    except Exception as error:
        error.add_note(text)
        raise


def agrees(model: Model, folder: Path) -> None:
    """Fails unless the model holds what every model does."""
    both = Both(model, folder)
    try:
        for check in CHECKS:
            check(both)
        whole.saves(both, folder / "weights")
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == both.package.__name__]:
            del sys.modules[name]


def says_why(text: str, refusal: ArchError) -> None:
    """Fails unless every error stands at what was written, and names a field or stands at its value."""
    errors = [d for d in refusal.diagnostics if d.severity == "error"]
    assert errors
    for error in errors:
        assert error.span is not None, error
        assert error.span.text in text
        named = FIELDS & set(re.findall(r"\w+", f"{error.message} {error.help}"))
        assert named or error.span.text in re.findall(r"= (.*?)(?= [,}]|,|$)", text, re.MULTILINE), error


@pytest.mark.parametrize("count", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)])
def test_every_pair_of_kinds_stands_in_a_model(count: int) -> None:
    """Also of those specs alone that are not refused, which are nearly all."""
    seen, refused = dict.fromkeys(cover.pairs(), 0), []
    for text, kinds in cover.drawn(count):
        try:
            plan(load_text(text)[0])
        except ArchError as refusal:
            refused.append(refusal)
            continue
        for pair in cover.pairs_of(kinds):
            seen[pair] += 1
    assert min(seen.values()) >= (1 if count == QUICK else 2), [p for p, n in seen.items() if n < 2]
    assert len(refused) <= REFUSED * count, [str(r) for r in refused]


def test_the_same_specs_every_time() -> None:
    cover.drawn.cache_clear()
    first = cover.texts(4)
    cover.drawn.cache_clear()
    assert cover.texts(6)[:4] == first
    assert len(set(first)) == 4
