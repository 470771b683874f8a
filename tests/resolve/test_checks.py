"""`check` statements, with and without costs."""

from __future__ import annotations

from typing import Any

import pytest

from archc.diagnostics import Diagnostic
from archc.resolve import run_checks
from tests.resolve.support import FFN, GQA, found, one, only, spec

COSTS: dict[str, Any] = {
    "params.total": 671_026_419_712,
    "kv_cache.bytes_per_token": 5000,
    "kv_cache.layout": "bf16",
    "time.mfu": None,
}


def cost(key: str, workload: dict[str, Any]) -> Any:
    """Stands for the cost report: the values above; bytes per token grow with the context."""
    if key not in COSTS:
        raise KeyError(*sorted(COSTS))
    if workload.get("batch", 1) > 1000:
        raise ValueError("a batch of more than 1000 is not supported")
    value = COSTS[key]
    return value + workload["context"] if "context" in workload else value


def run(check: str) -> tuple[Diagnostic, ...]:
    """The diagnostics of a check once costs are known."""
    model = one(spec(GQA + FFN + check))
    return run_checks(model, cost)


def test_a_check_without_costs_runs_at_load() -> None:
    problem = only(spec(GQA + FFN + 'check dim % 48 == 0 else "three parts"'))
    assert (problem.code, problem.span.text) == ("E0501", "dim % 48 == 0")
    assert problem.message == "three parts (`dim % 48 == 0`)"
    assert problem.help == "`dim % 48` = 16, not == 0"


@pytest.mark.parametrize(
    "check",
    [
        "dim == 64",
        "attention.heads * attention.head_dim == dim",
        "not (dim < 64)",
        "dim > 3 and layers == 6",
        "false or true",
        'norm_placement == "pre"',
        "attention.window == none",
    ],
)
def test_checks_that_hold(check: str) -> None:
    assert found(spec(GQA + FFN + f"check {check}")) == ()


def test_every_failing_side_is_shown() -> None:
    problem = only(spec(GQA + FFN + "check dim == layers and layers > 7"))
    assert problem.help == "`dim` = 64, `layers` = 6; `layers` = 6, not > 7"


def test_unknown_names_in_a_check_are_found_at_load() -> None:
    assert [d.code for d in found(spec(GQA + FFN + "check cost.params.total <= limit"))] == ["E0118"]


def test_costs_are_asked_with_their_workload() -> None:
    assert run("check cost.params.total <= 700B") == ()
    assert run("check cost.kv_cache.bytes_per_token(context = 1Mi) == 1_048_576 + 5000") == ()
    assert run("check cost.kv_cache.bytes_per_token(mode = decode, batch = 2, context = dim) == 5064") == ()
    assert run('check cost.kv_cache.layout == "bf16"') == ()
    assert run('check cost.params.total(hardware = h100, gpus = 8, parallel = "fsdp=8", recompute = full) <= 1T') == ()


def test_a_budget_that_is_exceeded_shows_both_sides() -> None:
    (problem,) = run('check cost.params.total <= 600B else "must fit eight nodes"')
    assert problem.code == "E0501"
    assert problem.message == "must fit eight nodes (`cost.params.total <= 600B`)"
    assert problem.help == "`cost.params.total` = 671_026_419_712, not <= 600_000_000_000"


@pytest.mark.parametrize(
    ("check", "code", "help"),
    [
        ("cost.params.totl <= 1", "E0503", "did you mean `params.total`?"),
        ("cost.time.mfu <= 1", "E0503", None),
        ("cost.params.total(batch = 2000) <= 1", "E0505", None),
    ],
)
def test_mistakes_found_with_the_report(check: str, code: str, help: str | None) -> None:
    (problem,) = run(f"check {check}")
    assert (problem.code, problem.help) == (code, help)


@pytest.mark.parametrize(
    ("check", "code", "span"),
    [
        ("cost.params.total(1Mi) <= 1", "E0505", "1Mi"),
        ("cost.params.total(contxt = 1Mi) <= 1", "E0505", "contxt"),
        ("cost.params.total(mode = decod) <= 1", "E0505", "decod"),
        ("cost.params.total(batch = 0) <= 1", "E0505", "0"),
        ("cost.params.total(batch = 1.5) <= 1", "E0202", "1.5"),
        ("cost.params.total(recompute = ful) <= 1", "E0505", "ful"),
        ("cost.params.total(hardware = 3) <= 1", "E0505", "3"),
        ("cost.params.total(parallel = dp * 2) <= 1", "E0505", "dp * 2"),
        ("cost.params.total(gpus = 0) <= 1", "E0505", "0"),
        ("total(batch = 1) <= 1", "E0212", "total"),
    ],
)
def test_mistakes_found_at_load(check: str, code: str, span: str) -> None:
    problem = only(spec(GQA + FFN + f"check {check}"))
    assert (problem.code, problem.span.text) == (code, span)


def test_a_child_keeps_the_checks_of_its_parent() -> None:
    text = spec(GQA + FFN + "check dim == 64") + "model c extends m { dim = 128 }"
    assert only(text).code == "E0501"


def test_checks_are_listed_on_the_model() -> None:
    model = one(spec(GQA + FFN + "check dim == 64\ncheck cost.params.total <= 1T"))
    assert [(c.text, c.needs_cost) for c in model.checks] == [("dim == 64", False), ("cost.params.total <= 1T", True)]
