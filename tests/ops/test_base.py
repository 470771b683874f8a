"""Sizes, workloads and printed forms."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.ops import OPS, B, Op, S, T, Workload, expr, size
from archc.ops.attention import visible_pairs
from archc.ops.base import literal
from archc.ops.time import Ring, Table, closing, row_parts

workloads = st.builds(
    lambda batch, new, past: Workload(batch=batch, new=new, past=past, cached=True),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 40),
)


@given(workloads, st.integers(1, 9), st.integers(1, 9))
def test_sizes_compute_what_their_names_say(w, a, b):
    for dim in (B * S * a, (T + a) // b, a + S * b, (S - 1) * (B + a), T // a // b):
        names = {"B": w.batch, "S": w.new, "T": w.total}
        assert size(dim, w) == eval(str(dim), {}, names)


def test_two_ops_of_one_name_are_refused():
    """The later would replace the earlier wherever a drawer calls it."""
    known = OPS["linear"]
    with pytest.raises(TypeError, match="two ops are called linear"):
        type("Linear", (Op,), {})
    assert OPS["linear"] is known


def test_equal_names_are_equal_sizes():
    assert S + 3 == S + 3
    assert S + 3 != S + 4
    assert T // 1 is T


@given(workloads, st.one_of(st.none(), st.integers(1, 50)))
def test_visible_pairs_counts_every_query(w, window):
    expected = sum(min(w.past + i + 1, window or 10**9) for i in range(w.new)) * w.batch
    assert visible_pairs(w, window) == expected


@given(st.integers(1, 20), st.integers(0, 60), st.integers(0, 60))
def test_closing_groups_cover_every_alignment(every, past, new):
    """A call of ``new`` tokens after ``past`` closes this many groups at most."""
    closed = (past + new) // every - past // every
    w = Workload(batch=1, new=new, past=past, cached=True)
    assert closed <= size(closing(every), w)
    alone = Workload(batch=1, new=new)
    assert size(closing(every), alone) == new // every


def test_rows_of_stores_and_their_bytes():
    assert Table(every=4, shape=(3, 5)).rows(17, 8) == 4
    assert Ring(keep=6, shape=(5,)).rows(100, 8) == 14
    assert Ring(keep=6, shape=(5,)).rows(9, 8) == 9
    assert row_parts(Table(every=4, shape=(3, 5)), element=2) == {"": 30}
    assert row_parts(Ring(keep=6, shape=(5,)), element=4) == {"": 20}
    assert row_parts(Table(every=1, shape=(2,), dtype="fp32"), element=2) == {"": 8}


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("f(x, eps=eps)", {"x": ast.Name("a"), "eps": 1e-6}, "f(a, eps=1e-06)"),
        ("f(x, eps=eps, on=on)", {"x": 1, "eps": None, "on": False}, "f(1)"),
        ("a * b", {"a": expr("x + y"), "b": expr("-z")}, "(x + y) * -z"),
        ("x.flatten(-2)", {"x": expr("a + b")}, "(a + b).flatten(-2)"),
        ("f([*xs], *ys)", {"xs": [1, 2], "ys": [3]}, "f([1, 2], 3)"),
        ("x.unflatten(-1, sizes)", {"x": ast.Name("q"), "sizes": (4, -1)}, "q.unflatten(-1, (4, -1))"),
        ("f(x, y)", {"x": 1, "y": None}, "f(1)"),
    ],
)
def test_expressions_keep_their_parentheses(template, values, text):
    assert ast.unparse(ast.fix_missing_locations(expr(template, **values))) == text


def test_literals_round_trip():
    for value in (1, -2.5, (1, (2, 3)), [1, -1], "x", True, None):
        assert ast.literal_eval(ast.unparse(literal(value))) == value
