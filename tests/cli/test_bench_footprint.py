"""What the row kernels of the library move, against what must move: the operands and results of each, once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from archc.api import build, planned
from archc.cli._bench import rows as bench_rows
from archc.cli._bench.rows import TOKENS
from archc.cli._bench.subjects import Subject, subjects
from archc.importers import load

SPECS = sorted(p.stem for p in (Path(__file__).parents[2] / "specs").glob("*.arch"))
MOST = 1.05


@cache
def calls(spec: str) -> dict[tuple[Any, ...], Subject]:
    return {(s.op, s.shapes, s.bounds["backward"][64]): s for s in subjects(planned(load(spec), "layers"), TOKENS)}


def shares(
    spec: str, found: Sequence[Subject], tokens: Sequence[int], at: Path
) -> list[tuple[str, str, str, int, float]]:
    """Distinct bytes of all launches as multiples of the bound, by function, way and number of tokens."""
    folder = build(load(spec), at, fuse="layers")
    job = {"folder": str(folder.parent), "package": folder.name, "tokens": tokens, "processors": 132}
    traced = bench_rows._run("trace", {**job, "subjects": [s.as_dict() for s in found]})
    assert [x["error"] for x in traced if "error" in x] == []
    return [
        (s.op, s.shapes, way, n, sum(sum(x["distinct"].values()) for x in made) / s.bounds[way][n])
        for s, at_each in zip(found, traced, strict=True)
        for n in tokens
        for way, made in at_each[str(n)].items()
        if made and all(0 not in operand.shapes[n] for operand in s.operands)
    ]


def test_functions_of_each_kind_move_what_they_must(tmp_path: Path) -> None:
    """A sum and a norm, norms and turns of heads, a router, a gate, at full width."""
    kinds = ["add_norm", "q_k_norm_rotate", "scores_project_softmax", "swiglu"]
    found = [s for s in calls("olmoe_1b_7b").values() if s.op in kinds]
    assert [s.op for s in found] == kinds
    moved = shares("olmoe_1b_7b", found, (64,), tmp_path)
    assert len(moved) == 2 * len(kinds)
    assert [of for of in moved if not 0.95 < of[-1] <= MOST] == []


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_functions_of_the_library_move_what_they_must(spec: str, tmp_path: Path) -> None:
    """Each function in the first of the specs that has it."""
    known = {of for other in SPECS[: SPECS.index(spec)] for of in calls(other)}
    # The boundary of sub-layers with streams has thresholds of its own: it reads the streams twice
    found = [s for of, s in calls(spec).items() if of not in known and "sinkhorn" not in s.op]
    if not found:
        pytest.skip("specs before it have all of its functions")
    moved = shares(spec, found, TOKENS, tmp_path)
    assert [of for of in moved if of[-1] > MOST] == []
