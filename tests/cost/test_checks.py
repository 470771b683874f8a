"""Budgets in specs reach memory and time: what they read is what `archc cost` says of the same."""

from __future__ import annotations

import pytest

from archc.api import lookup
from archc.cost.count import count
from archc.cost.setting import Parallel, setting_of
from archc.diagnostics import Diagnostic
from archc.plan import plan
from archc.resolve import run_checks
from tests.resolve.support import FFN, GQA, one, spec


def broken(check: str, fields: str = "") -> tuple[Diagnostic, ...]:
    """What a check finds once costs are known."""
    model = one(spec(GQA + FFN + fields + f"\ncheck {check}"))
    return run_checks(model, lookup(model))


def test_the_figures_are_those_of_the_report() -> None:
    """Under the same machine, plan and policy, of training as of decoding."""
    model = one(spec(GQA + FFN))
    value = lookup(model)
    for mode, recompute in (("train", "full"), ("train", "none"), ("decode", "none")):
        setting = setting_of(model, hardware="h100", gpus=4, parallel=Parallel(fsdp=4), recompute=recompute)
        graph = plan(model, names=mode == "train")
        report = count(model, graph, mode=mode, batch=8, setting=setting)
        asked = {"mode": mode, "batch": 8, "hardware": "h100", "gpus": 4, "parallel": "fsdp=4", "recompute": recompute}
        for key in (
            "memory.activations",
            "memory.per_device.total",
            "memory.fits",
            "time.total_s",
            "time.parts.launch",
        ):
            assert value(key, asked) == report.value(key), (mode, key)


@pytest.mark.parametrize(
    "check",
    [
        "cost.memory.weights <= 1GB",
        "cost.memory.per_device.total(mode = train, batch = 4) <= 80GB",
        'cost.memory.weights(parallel = "tp=2") >= cost.memory.weights',
        'cost.memory.per_device.weights(parallel = "tp=2") < cost.memory.per_device.weights',
        "cost.memory.fits(hardware = h100)",
        "cost.time.total_s(mode = train, hardware = h100) > cost.time.total_s(hardware = h100)",
    ],
)
def test_budgets_that_hold(check: str) -> None:
    assert broken(check) == ()


def test_a_model_with_hardware_needs_no_keyword() -> None:
    assert broken("cost.time.total_s <= 1 and cost.memory.fits", "hardware = h100") == ()
    (problem,) = broken("cost.time.total_s <= 1e-9", "hardware = h100")
    assert problem.code == "E0501"


@pytest.mark.parametrize(
    ("check", "code", "said"),
    [
        ("cost.memory.weights <= 1KB", "E0501", "does not hold"),
        ("cost.memory.wieghts <= 1KB", "E0503", "did you mean `memory.weights`?"),
        ("cost.memory.nothing <= 1KB", "E0503", "keys: `memory.activations`"),
        ("cost.memory <= 1KB", "E0503", "its keys: `weights`"),
        ("cost.time.totl_s <= 1", "E0503", "did you mean `time.total_s`?"),
        ("cost.time.total_s <= 1", "E0505", "`cost.time.total_s` needs `hardware`"),
        ("cost.memory.fits", "E0505", "`cost.memory.fits` needs `hardware`"),
        ("cost.time.total_s(hardware = h10) <= 1", "E0505", "no hardware `h10`; did you mean `h100`?"),
        ('cost.memory.weights(parallel = "xp=2") <= 1GB', "E0505", "`xp` is no way to spread a model"),
        ('cost.memory.weights(gpus = 3, parallel = "dp=2") <= 1GB', "E0505", "the plan has 2 devices"),
        ("cost.time.gpu_hours(mode = train, hardware = h100) <= 1", "E0503", "has no value"),
    ],
)
def test_what_is_wrong_with_a_budget_is_said(check: str, code: str, said: str) -> None:
    (problem,) = broken(check)
    assert problem.code == code
    assert said in f"{problem.message} {problem.help}"
