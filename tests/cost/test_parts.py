"""Counting by parts gives every figure of counting whole models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.cost.count import count
from archc.cost.parts import Parts
from archc.plan import plan, shrink
from archc.plan.parts import Inseparable
from archc.resolve import load, load_text
from archc.resolve.project import library

MODES = ("train", "prefill", "decode")


def whole(model: Any, **asked: Any) -> dict[str, Any]:
    """The report of the whole model, memory and time and what is said of them left out."""
    data = count(model, plan(model), **asked).as_dict()
    data["assumptions"] = [line for line in data["assumptions"] if not line.startswith("memory: ")]
    return {key: value for key, value in data.items() if key not in ("memory", "time")}


def parted(parts: Parts, model: Any, **asked: Any) -> dict[str, Any]:
    """The report by parts."""
    data = parts.report(model, **asked).as_dict()
    return {key: value for key, value in data.items() if key not in ("memory", "time")}


@pytest.fixture(scope="module")
def parts() -> Parts:
    """One store of parts for all models of this file: they must not get into each other's way."""
    return Parts()


@pytest.mark.parametrize("spec", library())
def test_every_figure_is_that_of_the_whole(spec: str, parts: Parts) -> None:
    model = load(spec)
    for each in (model, shrink(model)):
        for mode in MODES:
            assert parted(parts, each, mode=mode) == whole(each, mode=mode)


@pytest.mark.parametrize("spec", library())
def test_library_models_come_apart(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned_whole(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was planned as a whole")

    monkeypatch.setattr("archc.cost.parts.plan", planned_whole)
    Parts().report(load(spec))


CHANGES = {
    "deepseek_v3": (
        "moe.experts",
        "moe.hidden",
        "moe.router.active",
        "layers",
        "attention.kv_rank",
        "vocab",
    ),
    "deepseek_v4_flash": ("moe.experts", "moe.hidden", "layers", "csa.compress.ratio", "swa.window", "swa.out_rank"),
}
AMOUNTS = {
    "moe.experts": [64, 128, 256],
    "moe.hidden": [512, 1000, 2048],
    "moe.router.active": [4, 8],
    "layers": [43, 61],
    "attention.kv_rank": [256, 511],
    "vocab": [1000, 129_280],
    "csa.compress.ratio": [4, 8, 12],
    "swa.window": [64, 130],
    "swa.out_rank": [512, 1024],
}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_variants(data: st.DataObject, parts: Parts) -> None:
    spec = data.draw(st.sampled_from(list(CHANGES)))
    names = data.draw(st.sets(st.sampled_from(CHANGES[spec]), max_size=3))
    changes = {name: data.draw(st.sampled_from(AMOUNTS[name])) for name in sorted(names)}
    if changes.get("layers") == 43 and spec == "deepseek_v4_flash":
        del changes["layers"]
    if "layers" in changes and spec == "deepseek_v4_flash":
        changes["schedule.attention"] = "[swa * 2, (csa, hca) * 29, csa]"
    asked: dict[str, Any] = {
        "mode": data.draw(st.sampled_from(MODES)),
        "batch": data.draw(st.integers(1, 3)),
        "seq": data.draw(st.integers(1, 300)),
    }
    model = load(spec, set=changes)
    assert parted(parts, model, **asked) == whole(model, **asked)


def test_what_cannot_be_taken_apart_is_planned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def inseparable(*_: Any, **__: Any) -> Any:
        raise Inseparable

    model = load("olmoe_1b_7b")
    monkeypatch.setattr("archc.cost.parts.alone", inseparable)
    assert parted(Parts(), model) == whole(model)


@pytest.mark.parametrize("residual", ["mhc { form = single_pass }", "hc", "hc { dynamic = false }"])
@pytest.mark.parametrize("attention", ["near * 2, far, near", "none * 2, near, far"])
def test_streams_come_apart(residual: str, attention: str, parts: Parts) -> None:
    """What a model begins with has no gradient, in whichever layer it is read first."""
    (model,) = load_text(
        f"""arch 1
        model m {{ vocab = 61, dim = 20, layers = 4, context = 90, residual = {residual}, mtp = mtp_streams
          attention near = gqa {{ heads = 4, head_dim = 6, window = 6, rope = rope }}
          attention far = near {{ window = none }}
          ffn mix = swiglu {{ hidden = 12 }}
          schedule {{ attention = [{attention}], ffn = [none, mix * 3] }} }}
        """
    )
    for mode in MODES:
        assert parted(parts, model, mode=mode) == whole(model, mode=mode)
