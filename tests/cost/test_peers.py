"""docs/peers.md has the answers that bench/peers.py got, beside archc's of today; some are asked again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import peer_programs
from bench.peers import BEGIN, CAREFUL, END, FIGURES, MODELS, PAGE, PLAIN, ours, tables
from tests.importers.configs import PUBLISHED

DATA: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))


def test_the_page_has_the_tables() -> None:
    """Written anew by ``python -m bench.peers --read --write``."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    written, _, _ = rest.partition(END)
    assert written.strip() == "\n\n".join(tables(DATA)).strip()


@pytest.mark.parametrize("program", [PLAIN, CAREFUL])
def test_transformers_answers_as_before(program: str) -> None:
    """Two questions about the smallest of the four; all of them take minutes."""
    again = peer_programs.transformers(
        PUBLISHED["llama_3_1_8b"], careful=program == CAREFUL, questions=("parameters", "prefill")
    )
    assert again.items() <= DATA["answers"][program]["llama_3_1_8b"].items()
    assert len(again) == 2


@pytest.mark.parametrize("model", MODELS)
def test_archc_agrees_where_both_mean_the_same(model: str) -> None:
    """Parameters and the growth of caches, as transformers has them, to the last one."""
    for question in ("parameters", "cache"):
        assert DATA["answers"][CAREFUL][model][question] == ours(model)[question][0]
