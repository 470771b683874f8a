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


@pytest.mark.parametrize("spec", sorted(p.stem for p in resources.specs().glob("*.arch")))
def test_twins_of_the_library_are_small(spec: str) -> None:
    model = archc.load(spec)
    twin = shrink(model)
    assert params(plan(twin)).total <= 20_000_000
    assert {type(s.attention) for s in twin.schedule} == {type(s.attention) for s in model.schedule}
    assert {type(s.ffn) for s in twin.schedule} == {type(s.ffn) for s in model.schedule}
    assert twin.context >= 64
    assert twin.cache.kind == "fp32"
