"""Hyper-connections: rules between their fields, what is said of them, and their twins."""

from __future__ import annotations

from typing import Any

import pytest

from archc.drawers.residual.mhc import Mhc
from archc.plan import shrink
from tests.resolve.support import GQA, one, only, spec

FFN = "ffn = swiglu { hidden = 30 }\n"


def residual(fields: str) -> Any:
    return one(spec(f"{GQA}{FFN}residual = mhc {{ {fields} }}")).residual


@pytest.mark.parametrize("fields", ["streams = 0", "norm_eps = -1", "sinkhorn_iters = 3"])
def test_limits_of_unconstrained_ones(fields: str) -> None:
    assert only(spec(f"{GQA}{FFN}residual = hc {{ {fields} }}")).code.startswith("E02")


def test_the_form_of_the_paper_has_no_eps() -> None:
    problem = only(spec(f"{GQA}{FFN}residual = mhc {{ hc_eps = 1e-5, form = paper }}"))
    assert problem.code == "E0210"
    assert problem.message.startswith("hc_eps = 1e-05 has nothing to do")
    assert problem.span is not None
    assert problem.span.text == "1e-5"
    assert [note.span.text for note in problem.related] == ["paper"]


@pytest.mark.parametrize(
    ("fields", "eps"),
    [
        ("", 1e-6),
        ("form = v4", 1e-6),
        ("form = single_pass", 1e-6),
        ("form = paper", 0),
        ("form = paper, hc_eps = 0", 0),
        ("hc_eps = 0.5", 0.5),
    ],
)
def test_eps_follows_the_form(fields: str, eps: float) -> None:
    assert residual(fields).hc_eps == eps


@pytest.mark.parametrize("fields", ["streams = 0", "sinkhorn_iters = 0", "hc_eps = -1", "norm_eps = -1"])
def test_limits(fields: str) -> None:
    assert only(spec(f"{GQA}{FFN}residual = mhc {{ {fields} }}")).code.startswith("E02")


def test_the_form_is_said() -> None:
    v4, paper = Mhc(), Mhc(form="paper")
    assert v4.about().endswith("(mHC, arXiv:2512.24880, in the form of DeepSeek-V4).")
    assert paper.about().endswith("(mHC, arXiv:2512.24880).")
    assert Mhc(form="single_pass").about().endswith("in the single-pass form of DeepSeek-V4.1).")


@pytest.mark.parametrize(("streams", "kept"), [(1, 1), (3, 3), (4, 4), (9, 4)])
def test_a_twin_keeps_the_form_and_a_few_streams(streams: int, kept: int) -> None:
    model = one(spec(f"{GQA}{FFN}residual = mhc {{ streams = {streams}, form = paper, norm_eps = 1e-5 }}"))
    assert shrink(model).residual == Mhc(streams=kept, form="paper", norm_eps=1e-5)
