"""Schedules: sequences, repeats, placements, and every way to get them wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.resolve.support import FFN, found, one, only

DRAWERS = """
attention a = gqa { heads = 1 }
attention b = gqa { heads = 2 }
attention c = gqa { heads = 4 }
memory t = table { rows = 5 }
"""


def text(schedule: str, *, layers: int = 6, slot: str = "attention") -> str:
    """A spec with a schedule for a slot; every drawer is used, so that nothing else is reported."""
    other = "" if slot == "attention" else "attention = a\n"
    used = "let spare = a.heads + b.heads + c.heads + t.rows\ncheck spare > 0\n"
    fields = f"vocab = 10, dim = 64, layers = {layers}, context = 8\n"
    memory = "memory = none\n" if slot != "memory" else ""
    return f"arch 1\nmodel m {{\n{fields}{DRAWERS}{FFN}{other}{memory}{used}schedule {{ {slot} = {schedule} }}\n}}\n"


def word(schedule: str, *, layers: int = 6, slot: str = "attention") -> str:
    """The drawers of the layers as one string, `-` where there is none."""
    model = one(text(schedule, layers=layers, slot=slot))
    return "".join(d.label if (d := getattr(layer, slot)) is not None else "-" for layer in model.schedule)


@pytest.mark.parametrize(
    ("schedule", "layers", "expected"),
    [
        ("[a * 2, (b, c) * 2]", 6, "aabcbc"),
        ("[a * 2, (b, c) * 20, b]", 43, "aa" + "bc" * 20 + "b"),
        ("[a * 3, b * rest]", 61, "aaa" + "b" * 58),
        ("[a, b * rest, c]", 6, "abbbbc"),
        ("[a * rest, b]", 6, "aaaaab"),
        ("[(a, b) * rest]", 6, "ababab"),
        ("[(a * 3, b) * 12]", 48, "aaab" * 12),
        ("[((a, b) * 2, c) * 2]", 10, "ababcababc"),
        ("(a * 5, b)", 6, "aaaaab"),
        ("[a * (layers - 1), b]", 6, "aaaaab"),
        ("[a * 2 * 3]", 6, "aaaaaa"),
        ("[a * 0, b * 6]", 6, "bbbbbb"),
        ("[a * 6, b * rest]", 6, "aaaaaa"),
        ("[a, b, c, a, b, c]", 6, "abcabc"),
        ("a", 6, "aaaaaa"),
        ("a * rest", 6, "aaaaaa"),
        ("[a at 0..2, b at 3..]", 6, "aaabbb"),
        ("[a at [0, 5], b at 1..4]", 6, "abbbba"),
        ("[a at 0..4 by 2, b at 1..5 by 2]", 6, "ababab"),
        ("[a at [0..1, 5], b at 2, c at [3, 4]]", 6, "aabcca"),
        ("[none * 2, a * 4]", 6, "--aaaa"),
        ("[none at 0, a at 1..]", 6, "-aaaaa"),
    ],
)
def test_schedules(schedule: str, layers: int, expected: str) -> None:
    assert word(schedule, layers=layers) == expected


def test_a_gap_in_an_optional_slot_means_none() -> None:
    assert word("t at [1, 4]", slot="memory") == "-t--t-"
    assert word("[none, t, none * rest]", slot="memory") == "-t----"


@pytest.mark.parametrize(
    ("schedule", "code", "message", "span"),
    [
        ("[a * 2, b * 3]", "E0301", "attention covers 5 of 6 layers", "[a * 2, b * 3]"),
        ("[a * 2, b * 5]", "E0301", "attention covers 7 layers, but the model has 6", "[a * 2, b * 5]"),
        ("[a * 1T]", "E0301", "attention covers 1_000_000_000_000 layers, but the model has 6", "[a * 1T]"),
        ("[]", "E0301", "attention covers 0 of 6 layers", "[]"),
        ("[a * 8, b * rest]", "E0301", "attention covers 8 layers, but the model has 6", "[a * 8, b * rest]"),
        (
            "[a, (b, c) * rest]",
            "E0308",
            "5 layers are left for `rest`, no multiple of the 2 in `(b, c)`",
            "(b, c) * rest",
        ),
        ("[a * rest, b * rest]", "E0308", "a schedule has one `rest`", "b * rest"),
        ("[(a * rest, b) * 2]", "E0308", "`rest` stands directly in the list of a schedule", "rest"),
        ("[a at 0..2, b * 3]", "E0302", "a schedule is a sequence or placements (`at`), not both", "b * 3"),
        ("[a at 0..2, b at 2..]", "E0303", "layer 2 of attention is placed twice", "2.."),
        ("[a at 0..1, b at 4..]", "E0304", "no attention drawer is placed at layers 2 to 3", "[a at 0..1, b at 4..]"),
        (
            "[a at [0, 2, 3], b at 5]",
            "E0304",
            "no attention drawer is placed at layers 1 and 4",
            "[a at [0, 2, 3], b at 5]",
        ),
        ("[a at 0..6]", "E0305", "there is no layer 6: the model has 6, 0 to 5", "0..6"),
        ("[a at 0..5, b at -1]", "E0305", "there is no layer -1: the model has 6, 0 to 5", "-1"),
        ("[a at 0..1T]", "E0305", "there is no layer 1000000000000: the model has 6, 0 to 5", "0..1T"),
        ("[a at 9..]", "E0305", "there is no layer 9: the model has 6, 0 to 5", "9.."),
        ("[2 * a, b * rest]", "E0307", "a repeat is written `NAME * COUNT`", "2 * a"),
        ("[a * 3 - 1, b * rest]", "E0307", "`-` has no meaning between drawers", "a * 3 - 1"),
        ("[[a, b] * 3]", "E0307", "a list inside a schedule", "[a, b]"),
        ("[3]", "E0307", "a schedule holds names of drawers, not `3`", "3"),
        ("[a * -1, b * rest]", "E0311", "a repeat count is at least 0, not -1", "-1"),
        ("[a * 1.5, b * rest]", "E0202", "a whole number is needed here, not 1.5", "1.5"),
        ("[a * 5, d]", "E0114", "there is no attention drawer or kind `d`", "d"),
        ("[a at 3..1, b at 0]", "E0202", "the range 3..1 is empty", "3..1"),
        ("[a at 0.5]", "E0202", "a whole number is needed here, not 0.5", "0.5"),
    ],
)
def test_mistakes(schedule: str, code: str, message: str, span: str) -> None:
    problem = only(text(schedule))
    assert (problem.code, problem.message, problem.span.text) == (code, message, span)


def test_a_wrong_length_points_at_the_layers_too() -> None:
    problem = only(text("[a * 5]"))
    assert [r.span.text for r in problem.related] == ["6"]
    assert problem.help == "1 more are needed; `NAME * rest` fills what is left"


def test_an_overlap_points_at_the_first_placement() -> None:
    assert [r.span.text for r in only(text("[a at 0..3, b at [3, 4, 5]]")).related] == ["0..3"]


def test_a_wrong_name_and_a_wrong_length_are_both_reported() -> None:
    assert sorted(d.code for d in found(text("[a * 2, d * 2]"))) == ["E0114", "E0301"]


def test_a_child_amends_the_schedule_slot_by_slot() -> None:
    base = text("[a * 2, b * rest]")
    model = one(base + "model c2 extends m { layers = 8, schedule { memory = t at 1 } }")
    assert "".join(layer.attention.label for layer in model.schedule) == "aabbbbbb"
    assert [i for i, layer in enumerate(model.schedule) if layer.memory is not None] == [1]


def test_a_child_may_fill_what_its_parent_schedules_and_the_other_way_round() -> None:
    base = text("[a * 2, b * rest]")
    filled = one(base + "model c2 extends m { attention = c }")
    assert {layer.attention.label for layer in filled.schedule} == {"c"}
    again = one(
        base + "model c2 extends m { attention = c }\nmodel c3 extends c2 { schedule { attention = [a, b * rest] } }"
    )
    assert again.schedule[0].attention.label == "a"


def test_layers_that_no_longer_fit_point_at_the_parents_schedule() -> None:
    problem = only(text("[a * 2, b * 4]") + "model c2 extends m { layers = 7 }")
    assert (problem.code, problem.message) == ("E0301", "attention covers 6 of 7 layers")


def test_one_named_drawer_fills_every_layer() -> None:
    assert (
        one(
            "arch 1\nmodel m { vocab = 8, dim = 64, layers = 3, context = 8\nattention x = gqa { heads = 4 }\n"
            + FFN
            + "}"
        )
        .schedule[2]
        .attention.label
        == "x"
    )


def test_a_slot_that_does_not_differ_by_layer() -> None:
    problem = only(text("a, atention = b"))
    assert (problem.code, problem.help) == ("E0310", "did you mean `attention`?")


_ITEMS = st.recursive(
    st.sampled_from("abc").map(lambda n: (n, n)),
    lambda inner: st.one_of(
        st.tuples(inner, st.integers(0, 3)).map(lambda t: (f"({t[0][0]}) * {t[1]}", t[0][1] * t[1])),
        st.lists(inner, min_size=2, max_size=3).map(
            lambda ts: ("(" + ", ".join(t[0] for t in ts) + ")", "".join(t[1] for t in ts))
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(_ITEMS, min_size=1, max_size=4), st.integers(-2, 2))
def test_a_sequence_expands_as_its_text_says(items: list[tuple[str, str]], off: int) -> None:
    schedule, expected = "[" + ", ".join(t for t, _ in items) + "]", "".join(e for _, e in items)
    layers = len(expected) + off
    if not 0 < layers <= 200:
        return
    if off:
        assert only(text(schedule, layers=layers)).code == "E0301"
    else:
        assert word(schedule, layers=layers) == expected


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_placements_say_the_same_as_a_sequence(drawers: list[str]) -> None:
    places = {d: [str(i) for i, x in enumerate(drawers) if x == d] for d in sorted(set(drawers))}
    placed = "[" + ", ".join(f"{d} at [{', '.join(where)}]" for d, where in places.items()) + "]"
    runs = "[" + ", ".join(f"{d} * {len(list(g))}" for d, g in itertools.groupby(drawers)) + "]"
    assert word(placed, layers=len(drawers)) == word(runs, layers=len(drawers)) == "".join(drawers)
