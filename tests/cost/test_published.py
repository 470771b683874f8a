"""What others have published of the library's models is what `archc cost` says, each under its own convention."""

from __future__ import annotations

import math

import pytest

import archc
from archc import resources
from archc.ops import Workload
from archc.plan import plan
from tests.cost.published import BEGIN, END, FIGURES, PAGE, Figure, table

ALLOWED = 0.06
"""No published figure is further off than this, whatever its rule."""


def _id(figure: Figure) -> str:
    return f"{figure.spec}, {figure.what}, {figure.published}"


@pytest.mark.parametrize("figure", FIGURES, ids=_id)
def test_a_published_figure(figure: Figure) -> None:
    assert figure.allows(figure.value), f"{figure.key} = {figure.value:,} and not {figure.published}"
    assert figure.rule in {"rounds", "cut"} or abs(figure.deviation) <= ALLOWED


@pytest.mark.parametrize("figure", FIGURES, ids=_id)
def test_a_rule_can_fail(figure: Figure) -> None:
    """A little more than it allows is not what is published."""
    number, factor, decimals = figure.number
    step = 1.01 * (figure.within * number if figure.rule == "within" else 10.0**-decimals) * factor
    assert not figure.allows(number * factor + step)
    assert not figure.allows(number * factor - step)


def test_what_mtp_of_v3_activates() -> None:
    """2.4B, shared embedding and head included (README_WEIGHTS), like its 11.5B without the projection that joins."""
    graph = plan(archc.load("deepseek_v3"))
    active = 0
    for scope, times in graph.scopes():
        for spec in (value.param for value in scope.params):
            assert spec is not None
            if scope.owners[spec.name] == "mtp" and not spec.buffer:
                used, of = spec.share
                active += times * math.prod(spec.shape) * used // of
    assert round((active - 14_336 * 7168 + 2 * 129_280 * 7168) / 1e9, 1) == 2.4


@pytest.mark.parametrize(
    ("name", "flops", "cache"), [("deepseek_v4_pro", 0.27, 0.10), ("deepseek_v4_flash", 0.10, 0.07)]
)
def test_v4_against_v3_2_at_a_million_tokens(name: str, flops: float, cache: float) -> None:
    """27 and 10 % of the FLOPs of a decoded token, 10 and 7 % of the cache (arXiv:2606.19348, abstract), within one
    point, by the plans of both: with attention of V3.2 as its equations have it, and as it runs, on latents.
    """
    at, w = 1 << 20, Workload(batch=1, new=1, past=(1 << 20) - 1, cached=True)
    one = archc.cost(archc.load(name, set={"cache": "v4_fp8"}), context=at)
    before = archc.load("deepseek_v3_2", set={"cache": "mla_fp8"})
    other = archc.cost(before, context=at)
    assert abs(one.kv_cache.bytes_per_token / other.kv_cache.bytes_per_token - cache) < 0.01
    as_run = 0
    for node, times in plan(before).walk(labels=False):
        cost = node.op.cost(w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs))
        as_run += 2 * times * (cost.executed - cost.useful) if node.op.kind == "sparse_latent_attend" else 0  # bfloat16
    needed = other.flops.weighted_fp8_equivalent
    assert as_run > 0
    for total in (needed, needed + as_run):
        assert abs(one.flops.weighted_fp8_equivalent / total - flops) < 0.01


def test_no_spec_is_left_out() -> None:
    """Every model of the library has published parameters; every mixture of experts says how many are active."""
    have = {what: {figure.spec for figure in FIGURES if figure.what == what} for what in ("parameters", "active")}
    library = {path.stem for path in resources.specs().glob("*.arch")}
    assert have["parameters"] == library
    assert have["active"] == {name for name in library if not name.startswith("llama")}


def test_what_is_inconsistent_says_so() -> None:
    """Where no convention gives the published digits, a note tells why."""
    assert all(figure.note for figure in FIGURES if figure.rule == "within")


def test_the_page_has_the_table() -> None:
    """Written anew by ``python -m tests.cost.published``."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    written, _, _ = rest.partition(END)
    assert written.strip() == table().strip()
