"""The tiny twin keeps every layer kind and every transition in few layers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import archc
from archc import resources
from archc.cost.count import params
from archc.plan import plan, shrink
from archc.plan.shrink import MAX_LAYERS, walk
from archc.resolve import load_text


@pytest.mark.parametrize(
    ("schedule", "twin"),
    [
        ("aaaa", "aa"),
        ("a", "a"),
        ("abbbb", "abb"),
        ("aabcbcbcb", "aabcb"),
        ("ababab", "abab"),
        ("dddmmmm", "ddmm"),
    ],
)
def test_shortest_walks(schedule: str, twin: str) -> None:
    found = "".join(walk(tuple(schedule)))
    assert len(found) == len(twin)
    assert set(pairwise(found)) == set(pairwise(schedule))
    assert (found[0], found[-1]) == (schedule[0], schedule[-1])


@given(st.text("abc", min_size=1, max_size=30))
def test_walks_only_take_steps_of_the_schedule(schedule: str) -> None:
    found = walk(tuple(schedule))
    assert len(found) <= MAX_LAYERS
    assert set(found) == set(schedule)
    if len(set(pairwise(schedule))) <= 3:
        assert set(pairwise(found)) == set(pairwise(schedule))


def test_a_twin_predicts_further_tokens_too() -> None:
    text = """arch 1
model further {
  vocab = 9_000, dim = 1024, layers = 9, context = 4Ki
  attention wide = gqa { heads = 16, kv_heads = 4, rope = rope }
  attention local = wide { window = 512 }
  ffn = swiglu { hidden = 4096 }
  schedule { attention = [local * 8, wide] }
  mtp = concat { depth = 2, weight = 0.1, ffn = swiglu { hidden = 8192 } }
}
"""
    model, *_ = load_text(text)
    twin = shrink(model)
    assert twin.mtp is not None
    assert (twin.mtp.depth, twin.mtp.weight, twin.mtp.ffn.hidden) == (2, 0.1, 256)
    modules = {p.name: p.spec.shape for p in plan(twin).parameters() if p.component == "mtp"}
    assert modules["mtp.1.eh_proj.weight"] == (128, 256)
    assert {name.partition(".self_attn.")[2] for name in modules if ".self_attn." in name} >= {"q_proj.weight"}
    full = {p.name for p in plan(model).parameters() if p.component == "mtp"}
    assert modules.keys() == full


@pytest.mark.parametrize("spec", sorted(p.stem for p in resources.specs().glob("*.arch")))
def test_twins_of_the_library_are_small(spec: str) -> None:
    model = archc.load(spec)
    twin = shrink(model)
    assert params(plan(twin)).total <= 20_000_000
    assert {type(s.attention) for s in twin.schedule} == {type(s.attention) for s in model.schedule}
    assert {type(s.ffn) for s in twin.schedule} == {type(s.ffn) for s in model.schedule}
    assert twin.layers == len(twin.schedule) <= MAX_LAYERS
    assert type(twin.mtp) is type(model.mtp)
    assert twin.context >= 64
    assert twin.cache.kind == "fp32"
