"""Configs of published models give the models of the library."""

from __future__ import annotations

import math

import pytest

import archc
from archc.importers import convert
from archc.plan import plan
from archc.resolve import load_text
from tests.importers.configs import LLAMA_3_1, PARAMETERS


@pytest.mark.parametrize("name", LLAMA_3_1)
def test_llama_3_1_is_that_of_the_library(name: str) -> None:
    text, diagnostics = convert(LLAMA_3_1[name], name)
    assert diagnostics == ()
    (imported,) = load_text(text)
    library = archc.load(name)
    assert imported.schedule == library.schedule
    assert imported.spec_hash == library.spec_hash
    ours, theirs = plan(imported), plan(library)
    assert [(p.name, p.spec) for p in ours.parameters()] == [(p.name, p.spec) for p in theirs.parameters()]
    assert sum(math.prod(p.spec.shape) for p in ours.parameters()) == PARAMETERS[name]
    for mode in ("train", "prefill", "decode"):
        assert archc.cost(imported, mode=mode).as_dict() == archc.cost(library, mode=mode).as_dict()
