"""Laws of comparisons, and that they hold of the packages themselves."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archc.api import cost
from archc.diff import Difference, Finding, Side, diff
from archc.importers import load
from archc.plan import shrink
from tests.built import built, randomise
from tests.diff.specs import CHOICES, PLAIN, side, small

VARIANTS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in CHOICES.items()})


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, str]]:
    """Two specs that differ in at most two values."""
    one = draw(VARIANTS)
    names = draw(st.lists(st.sampled_from(sorted(CHOICES)), max_size=2))
    return one, one | {name: draw(st.sampled_from(CHOICES[name])) for name in names}


@cache
def _side(key: str):
    return side(small(**json.loads(key)))


def found(a: dict[str, str], b: dict[str, str]) -> Difference:
    sides = [_side(json.dumps(x, sort_keys=True)) for x in (a, b)]
    reports = [cost(s.model, graph=s.graph, context=64).as_dict() for s in sides]
    return diff(sides[0], sides[1], (reports[0], reports[1]))


OPPOSITE = {"added": "removed", "removed": "added"}


def seen(f: Finding, *, flip: bool = False) -> tuple:
    a, b = (f.b, f.a) if flip else (f.a, f.b)
    change = OPPOSITE.get(f.change, f.change) if flip else f.change
    places = {(p.field, p.b, p.a) if flip else (p.field, p.a, p.b) for p in f.places}
    return f.level, f.group, f.layers, change, f.what, a, b, f.training_only, frozenset(places)


@given(VARIANTS)
def test_nothing_differs_from_itself(a: dict[str, str]) -> None:
    assert found(a, a).as_dict() == {"format_version": 1, "level": None, "findings": [], "deltas": {}}


@given(VARIANTS, VARIANTS)
def test_the_other_way_round_is_the_opposite(a: dict[str, str], b: dict[str, str]) -> None:
    there, back = found(a, b), found(b, a)
    assert {seen(f) for f in there.findings} == {seen(f, flip=True) for f in back.findings}
    assert {k: (y, x) for k, (x, y) in there.deltas.items()} == back.deltas


@given(VARIANTS, VARIANTS)
def test_a_difference_of_values_is_found(a: dict[str, str], b: dict[str, str]) -> None:
    assert (found(a, b).level is None) == (a == b)


# --- packages ------------------------------------------------------------------------------------
@cache
def model(key: str) -> torch.nn.Module:
    """The model of a package as a user gets it, in float32."""
    return built(_side(key).model, Path(mkdtemp())).Model(dtype=torch.float32).eval()


def loads(into: torch.nn.Module, state: dict) -> bool:
    try:
        into.load_state_dict(state, strict=True)
    except RuntimeError:
        return False
    return True


@torch.no_grad()
def outputs(m: torch.nn.Module, ids: torch.Tensor) -> list[torch.Tensor]:
    """Logits of whole rows, and of the same rows in two chunks with a cache."""
    cache = m.new_cache(len(ids), ids.shape[1])
    return [m(ids).logits, m(ids[:, :7], cache=cache).logits, m(ids[:, 7:], cache=cache).logits]


def check(a: dict[str, str], b: dict[str, str]) -> None:
    """That the packages of two specs treat each other's weights as their comparison says."""
    findings = found(a, b).findings
    one, other = (model(json.dumps(x, sort_keys=True)) for x in (a, b))
    randomise(one, seed=1)
    state = one.state_dict()
    fits = loads(other, state) and loads(one, other.state_dict())
    assert fits == (not any(f.level == "CKPT" for f in findings))
    if not fits:
        return
    ids = torch.randint(40, (2, 16), generator=torch.Generator().manual_seed(0))
    same = all(torch.equal(x, y) for x, y in zip(outputs(one, ids), outputs(other, ids), strict=True))
    assert same == (not any(f.level == "NUMERICS" and not f.training_only for f in findings))


@pytest.mark.parametrize(
    "changes",
    [{"groups": "4"}, {"theta": "50e3"}, {"schedule": "[near, far, near]"}, {"std": "0.01"}, {"head": "tied"}],
    ids=lambda changes: next(iter(changes)),
)
def test_packages_agree_on_single_changes(changes: dict[str, str]) -> None:
    check(PLAIN, PLAIN | changes)


@pytest.mark.slow
@given(neighbours())
def test_checkpoints_load_and_logits_agree_just_as_the_comparison_says(pair: tuple[dict, dict]) -> None:
    check(*pair)


LIBRARY = [
    ("deepseek_v4_flash", "csa.compress.indexer.topk=3", True),
    ("deepseek_v4_flash", "swa.window=9", True),
    ("deepseek_v4_flash", "residual.sinkhorn_iters=2", True),
    ("deepseek_v4_flash", "moe.activation.clamp=0.01", True),
    ("deepseek_v4_flash", "moe.router.balance_weight=0", False),
    ("deepseek_v4_flash", "csa.compress.indexer.loss_weight=0.5", False),
    ("deepseek_v3", "attention.rope.factor=2", True),
    ("deepseek_v3", "moe.router.scale=1", True),
    ("deepseek_v3", "moe.router.bias_rate=0", False),
    ("gpt_oss_20b", "norm.eps=1e-2", True),
]


@cache
def twin(spec: str, change: str) -> tuple[Side, torch.nn.Module]:
    """The CPU-size twin of a model of the library, and the model of its package."""
    path, _, value = change.partition("=")
    small_model = shrink(load(spec, set={path: value} if change else {}))
    package = built(small_model, Path(mkdtemp()))
    return side(small_model), package.Model(dtype=torch.float32).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "change", "seen_in_logits"), LIBRARY)
def test_changes_of_models_of_the_library(spec: str, change: str, seen_in_logits: bool) -> None:
    """Checkpoints load, and logits differ just where the finding is not of training alone."""
    (a, one), (b, other) = twin(spec, ""), twin(spec, change)
    findings = diff(a, b).findings
    assert {f.level for f in findings} == {"NUMERICS"}
    randomise(one, seed=1)
    assert loads(other, one.state_dict())
    ids = torch.randint(one.vocab, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = torch.equal(one(ids).logits, other(ids).logits)
    assert same != seen_in_logits
    assert any(not f.training_only for f in findings) == seen_in_logits
