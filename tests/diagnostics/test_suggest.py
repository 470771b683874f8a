"""Did you mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.diagnostics.suggest import closest, distance

WORDS = ["heads", "kv_heads", "head_dim", "hidden", "eps", "attention", "window", "topk", "rope", "theta"]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("epz", "eps"),
        ("atention", "attention"),
        ("head", "heads"),
        ("Heads", "heads"),
        ("heads_kv", "kv_heads"),
        ("hidden_size", "hidden"),
        ("tehta", "theta"),
        ("widnow", "window"),
        ("top_k", "topk"),
        ("zebra", None),
        ("x", None),
        ("", None),
    ],
)
def test_closest(word, found):
    assert closest(word, WORDS) == found


@pytest.mark.parametrize(
    ("word", "found"),
    [("kv_lora_rank", "kv_rank"), ("q_lora_rank", "q_rank"), ("qk_nope_head_dim", "nope_dim"), ("v_head_dim", "v_dim")],
)
def test_a_word_with_all_parts_of_a_known_one_and_more_is_near(word, found):
    assert closest(word, ["dim", "heads", "q_rank", "kv_rank", "nope_dim", "rope_dim", "v_dim", "rope"]) == found


def test_ties_are_settled_by_name():
    assert closest("abx", ["abz", "aby"]) == "aby"


@pytest.mark.parametrize(
    ("a", "b", "d"), [("", "", 0), ("abc", "acb", 1), ("kitten", "sitting", 3), ("ca", "abc", 3), ("a", "", 1)]
)
def test_distance(a, b, d):
    assert distance(a, b) == d


words = st.text("abc", max_size=7)


@settings(deadline=None)
@given(words, words)
def test_distance_is_symmetric_and_bounded(a, b):
    d = distance(a, b)
    assert d == distance(b, a)
    assert (d == 0) == (a == b)
    assert abs(len(a) - len(b)) <= d <= max(len(a), len(b))


@settings(deadline=None)
@given(st.text(max_size=200), st.lists(st.text(max_size=20)))
def test_closest_is_one_of_the_known(word, known):
    assert closest(word, known) in {None, *known}
