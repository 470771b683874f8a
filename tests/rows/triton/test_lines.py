"""Statements keep their meaning where they are broken into lines, and where values move to their only use."""

from __future__ import annotations

import ast

from hypothesis import given
from hypothesis import strategies as st

from archc.rows.triton.lines import Lines, broken

NAMES = st.sampled_from(["streams_0_0", "comb_next_1_3", "inverse_root", "t", "x"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    some = st.lists(inner, min_size=1, max_size=6)
    return st.one_of(
        some.map(lambda parts: f"f({', '.join(parts)})"),
        some.map(lambda parts: f"({' + '.join(parts)})"),
        some.map(lambda parts: f"g({' * '.join(parts)}, other=0.0)"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} - {pair[1]})"),
        inner.map(lambda x: f"{x}.to(tl.float32)"),
        inner.map(lambda x: f"{x}[:, None]"),
    )


EXPRESSIONS = st.recursive(NAMES, grown, max_leaves=30)


def same(text: str) -> str:
    return ast.dump(ast.parse(text))


@given(EXPRESSIONS, st.integers(40, 110), st.sampled_from(["", "total = ", "total += ", "a, b = "]))
def test_broken_statements_are_the_same(expression: str, longest: int, left: str) -> None:
    text = left + expression
    assert same("\n".join(broken(text, longest))) == same(text)


@given(st.lists(st.tuples(EXPRESSIONS, st.sampled_from([" + ", " * ", " - ", " / "])), min_size=2, max_size=9))
def test_sums_and_products_are_broken_between_terms(terms: list[tuple[str, str]]) -> None:
    text = f"total = {''.join(term + sign for term, sign in terms)}x"
    assert same("\n".join(broken(text, 60))) == same(text)


def test_long_statements_fit() -> None:
    terms = [f"comb_{j}_{k}[:, None] * streams_{j}" for j in range(8) for k in range(8)]
    calls = f"tl.where(x < 0, {' + '.join(terms)}, tl.exp({' * '.join(terms)}))"
    for text in (f"x = {' + '.join(terms)}", f"x = {calls}", calls, f"{', '.join(f'a_{i}' for i in range(64))} = f(x)"):
        assert max(map(len, broken(text, 100))) <= 100


def written(*lines: tuple[str, str] | str) -> str:
    """The text of assignments (name, expression) that may pass, and of lines."""
    body = Lines(depth=0)
    for line in lines:
        if isinstance(line, str):
            body.line(line)
        else:
            body.assign(line[1], line[0], passing=True)
    return body.text()


def test_values_move_to_their_only_use_with_the_parentheses_that_they_need() -> None:
    assert written(("a", "x + y"), "tl.store(p, a * b)") == "tl.store(p, (x + y) * b)"
    assert written(("a", "x + y"), "tl.store(p, a + b)") == "tl.store(p, x + y + b)"
    assert written(("a", "x * y"), "tl.store(p, a * b + a2)") == "tl.store(p, x * y * b + a2)"
    assert written(("a", "x * y"), "tl.store(p, 1.0 / a)") == "tl.store(p, 1.0 / (x * y))"
    assert written(("a", "-x"), "tl.store(p, b + a)") == "tl.store(p, b + (-x))"
    assert (
        written(("a", "tl.exp(x + y)"), "tl.store(p, a.to(tl.float32))") == "tl.store(p, tl.exp(x + y).to(tl.float32))"
    )
    assert written(("a", "x * y"), "tl.store(p, a[:, None])") == "tl.store(p, (x * y)[:, None])"
    assert written(("a", "x / y"), "tl.store(p, b * a)") == "tl.store(p, b * (x / y))"


def test_values_that_nothing_reads_are_not_written() -> None:
    assert written(("a", "tl.load(p)"), ("b", "a + 1"), ("c", "tl.load(q)"), "f(c)") == "f(tl.load(q))"


def test_values_that_are_used_twice_or_whose_operands_change_stay() -> None:
    assert written(("a", "x + y"), "f(a, a)") == "a = x + y\nf(a, a)"
    body = Lines(depth=0)
    body.assign("x + 1", "a", passing=True)
    body.reassign("x", "0")
    body.line("f(a)")
    assert body.text() == "a = x + 1\nx = 0\nf(a)"
    body = Lines(depth=0)
    body.assign("x + 1", "a", passing=True)
    with body.block("for i in range(9):"):
        body.line("f(a)")
    assert body.text().startswith("a = x + 1\n")


@given(st.lists(st.tuples(st.sampled_from("+*-/"), st.integers(-9, 9)), min_size=1, max_size=8))
def test_what_moved_has_the_value_that_it_had(steps: list[tuple[str, int]]) -> None:
    body, value = Lines(depth=0), "1.5"
    for sign, number in steps:
        shown = number or 7
        text = f"{value} {sign} {shown if shown > 0 else f'({shown})'}"
        value = body.assign(text, "v", passing=True)
    plain = "\n".join(f"{line.target} = {line.text}" for line in body.written)
    body.line(f"out = {value} * 3")
    found, wanted = {}, {}
    exec(body.text(), found)
    exec(f"{plain}\nout = {value} * 3", wanted)
    assert found["out"] == wanted["out"]


def test_stores_one_after_another_are_one_call_where_they_have_the_mask_of_tokens() -> None:
    """Not where another mask goes with each: rows of one channel stand one after another as numbers do."""
    tokens = [f"tl.store(x + t * 4 + {i}, x_{i}, mask=inside)" for i in (1, 2, 3)]
    assert written(*tokens) == "store_numbers(x + t * 4 + 1, 1, (x_1, x_2, x_3), inside)"
    rows = [f"tl.store(x + t[:, None] * 3 + {i}, x_{i}, mask=inside[:, None])" for i in range(3)]
    assert written(*rows) == "\n".join(rows)
