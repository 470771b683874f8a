"""Configs of published models give the models of the library."""

from __future__ import annotations

import math
from typing import Any

import pytest

import archc
from archc.plan import plan
from archc.resolve import load_text
from tests.importers.configs import MIXTURES, PARAMETERS, PUBLISHED, converted

UNSAID: dict[str, dict[str, Any]] = {
    "deepseek_v2_lite": {"moe.router.balance_weight": 0},
    "deepseek_v2": {"moe.router.balance_weight": 0},
    "deepseek_v3": {"moe.router.balance_weight": 0, "optimizer": "adamw"},
    "deepseek_v3_2": {"moe.router.balance_weight": 0, "optimizer": "adamw"},
    "kimi_k2": {"precision.working": "fp8", "optimizer": "adamw"},
    "deepseek_v4_flash": {"moe.router.balance_weight": 0, "optimizer": "adamw"},
    "deepseek_v4_pro": {"moe.router.balance_weight": 0, "optimizer": "adamw"},
}
"""How the library's models are trained, of which the implementation in transformers knows nothing."""


def imported(name: str) -> Any:
    """The model of a published config, with multi-token prediction where it has some."""
    text, diagnostics = converted(PUBLISHED[name], mtp=name.startswith(("deepseek_v3", "deepseek_v4", "glm")))
    # The published configs of DeepSeek and Kimi name a loss and code that transformers does not have.
    said = {d.message.split("`")[1].split(" ")[0] for d in diagnostics}
    assert said <= ({"aux_loss_alpha", "auto_map"} if name.startswith(("deepseek", "kimi")) else set())
    (model,) = load_text(text.replace("model model_x", f"model {name}"))
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_those_of_the_library(name: str) -> None:
    ours, library = imported(name), archc.load(name, set=UNSAID.get(name, {}))
    assert ours.schedule == library.schedule
    assert ours.spec_hash == library.spec_hash
    parameters = [(p.name, p.spec) for p in plan(ours).parameters()]
    assert parameters == [(p.name, p.spec) for p in plan(library).parameters()]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_parameters_as_in_transformers(name: str) -> None:
    parameters = plan(imported(name)).parameters()
    counted = [p for p in parameters if not p.spec.buffer and not p.name.startswith("mtp.")]
    assert sum(math.prod(p.spec.shape) for p in counted) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["llama_3_1_8b", *MIXTURES])
@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_published_models_cost_what_those_of_the_library_cost(name: str, mode: str) -> None:
    library = archc.load(name, set=UNSAID.get(name, {}))
    assert archc.cost(imported(name), mode=mode).as_dict() == archc.cost(library, mode=mode).as_dict()
