"""Types, units, limits and arithmetic."""

from __future__ import annotations

import pytest

from tests.resolve.support import FFN, FIELDS, GQA, found, one, only, spec


def heads(expr: str, more: str = "") -> str:
    """A spec whose number of heads is ``expr``."""
    return spec(f"{more}attention = gqa {{ heads = {expr} }}\n{FFN}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("1_6", 16),
        ("4Ki", 4096),
        ("10e3", 10_000),
        ("2K", 2000),
        ("64 / 2", 32),
        ("65 // 2", 32),
        ("7 % 4", 3),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("--8", 8),
        ("+8", 8),
        ("dim / 2", 32),
        ("1.5 * 4", 6),
    ],
)
def test_whole_numbers(text: str, value: int) -> None:
    attention = one(heads(text + ", head_dim = 2")).schedule[0].attention
    assert attention.heads == value
    assert type(attention.heads) is int


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2.5", "`heads` is a whole number, not 2.5"),
        ("7 / 2", "`heads` is a whole number, not 3.5"),
        ("true", "`heads` is a whole number, not true"),
        ('"8"', '`heads` is a whole number, not "8"'),
        ("none", "`heads` is a whole number, not none"),
        ("[8]", "`heads` is a whole number, not [8]"),
        ("2..3", "`heads`: a range stands in a list or behind `in` and `at`, not here"),
        ("rms { }", "`heads`: a value is needed here, not a drawer"),
    ],
)
def test_what_is_not_a_whole_number(text: str, message: str) -> None:
    problem = only(heads(text))
    assert (problem.code, problem.message, problem.span.text) == ("E0202", message, text)


def test_whole_numbers_become_floats_where_a_number_is_wanted() -> None:
    eps = one(spec(GQA + FFN + "norm = rms { eps = 1 }")).norm.eps
    assert (eps, type(eps)) == (1.0, float)


@pytest.mark.parametrize(("text", "code"), [("4 / 0", "E0208"), ("4 // (dim - 64)", "E0208"), ("4 % 0", "E0208")])
def test_division_by_zero(text: str, code: str) -> None:
    assert only(heads(text)).code == code


@pytest.mark.parametrize(
    "text", ["1e308 * 1e10", "10000T * 10000T * 10000T", "1e308 + 1e308", "9_999_999_999_999_999_999_999"]
)
def test_overflow(text: str) -> None:
    assert only(heads(text)).code == "E0209"


@pytest.mark.parametrize(
    "text", ["4 + true", '"a" + "b"', "not 3", "-true", "none * 2", "true < false", '1 == "a"', "4 and true"]
)
def test_operands_that_do_not_fit(text: str) -> None:
    assert only(heads(text)).code == "E0207"


def test_limits_are_stated_in_our_words() -> None:
    problem = only(heads("-3"))
    assert (problem.code, problem.message, problem.span.text) == (
        "E0204",
        "`heads` must be greater than 0, got -3",
        "-3",
    )
    problem = only(spec("attention = gqa { heads = 4, rope = rope { dim = 7 } }\n" + FFN))
    assert (problem.message, problem.span.text) == ("`dim` must be a multiple of 2, got 7", "7")


def test_a_default_that_breaks_a_limit_says_where_it_comes_from() -> None:
    problem = only(spec("attention = gqa { heads = 128 }\n" + FFN))
    assert (problem.code, problem.message) == ("E0204", "`head_dim` must be greater than 0, got 0")
    assert problem.help == "`head_dim` was not given: 0 follows from other fields; write `head_dim = ...`"


def test_rules_between_fields_point_at_the_fields() -> None:
    problem = only(spec("attention = gqa { heads = 4, kv_heads = 3 }\n" + FFN))
    assert (problem.code, problem.message) == ("E0210", "kv_heads = 3 does not divide heads = 4")
    assert (problem.span.text, [r.span.text for r in problem.related]) == ("3", ["4"])


def test_a_rule_over_a_default_points_at_what_was_given() -> None:
    problem = only(spec("attention = sparse { heads = 64, window = 2 }\n" + FFN))
    assert (problem.code, problem.span.text, problem.help) == ("E0210", "64", "use an even width")


def test_a_rule_that_cannot_be_evaluated_is_no_crash() -> None:
    assert only(spec(GQA + "ffn = fragile { rule = 0 }")).code == "E0116"


def test_a_default_that_cannot_be_computed_is_no_crash() -> None:
    problem = only(spec(GQA + "ffn = fragile { parts = 0 }"))
    assert (problem.code, problem.message) == ("E0215", "a default of `fragile` cannot be computed: division by zero")


def test_words() -> None:
    problem = only(spec("attention = gqa { heads = 4, qk_norm = ful }\n" + FFN))
    assert (problem.code, problem.span.text, problem.help) == ("E0205", "ful", "did you mean `full`?")
    assert problem.message == "`qk_norm` is one of head, full, not `ful`"
    assert one(spec("attention = gqa { heads = 4, qk_norm = none }\n" + FFN)).schedule[0].attention.qk_norm is None
    assert one(spec("attention = gqa { heads = 4, qk_norm = head }\n" + FFN)).schedule[0].attention.qk_norm == "head"


def test_none_is_a_word_of_fields_that_have_it() -> None:
    model = one(spec("precision = bf16 { master = none }\noptimizer = adamw { tables = none }\n" + GQA + FFN))
    assert (model.precision.master, model.optimizer.tables) == ("none", "none")


def test_missing_fields_are_listed_together_at_the_kind() -> None:
    problem = only(spec("attention = sparse\n" + FFN))
    assert (problem.code, problem.message, problem.span.text) == (
        "E0201",
        "`sparse` needs `heads` and `window`",
        "sparse",
    )
    assert problem.help == "heads: query heads; window: raw tokens seen"


def test_missing_model_fields_and_slots() -> None:
    problems = found("arch 1\nmodel m { dim = 64, layers = 2\n ffn = swiglu { hidden = 3 } }")
    assert [(p.code, p.message) for p in problems] == [("E0201", "`m` needs `vocab`, `context` and `attention`")]


def test_attention_and_ffn_may_be_none_on_purpose() -> None:
    layer = one(spec("attention = none\n" + FFN)).schedule[0]
    assert (layer.attention, layer.ffn.hidden) == (None, 256)


def test_a_required_slot_cannot_be_none() -> None:
    problem = only(spec(GQA + FFN + "norm = none"))
    assert (problem.code, problem.message) == ("E0202", "`norm` is a norm drawer, it cannot be `none`")


def test_lists() -> None:
    def orders(text: str) -> str:
        return spec(GQA + FFN + f"memory t = table {{ rows = 1, orders = {text} }}")

    assert one(orders("[2, 4..8 by 2, dim]")).schedule[0].memory.orders == [2, 4, 6, 8, 64]
    assert one(orders("[]")).schedule[0].memory.orders == []
    assert only(orders("3")).help == "write `[3]`"
    assert only(orders("[2, true]")).code == "E0202"
    assert only(orders("[0..1_000_000_000_000]")).code == "E0209"
    assert only(orders("[3..1]")).code == "E0202"
    assert only(orders("[3..]")).code == "E0202"
    assert only(orders("[1..3 by 0]")).code == "E0202"


def test_strings() -> None:
    assert one(spec(GQA + FFN + 'memory t = table { rows = 1, note = "a \\"b\\"" }')).schedule[0].memory.note == 'a "b"'
    assert only(spec(GQA + FFN + "memory t = table { rows = 1, note = 3 }")).code == "E0202"


def test_absurd_numbers_of_layers_are_refused_quickly() -> None:
    problem = only(f"arch 1\nmodel m {{ vocab = 1, dim = 64, layers = 1T, context = 8\n{GQA}{FFN} }}")
    assert (problem.code, problem.span.text) == ("E0204", "1T")


def test_a_sum_as_long_as_the_parser_takes() -> None:
    assert one(heads(" + ".join(["1"] * 90) + ", head_dim = 2")).schedule[0].attention.heads == 90


def test_a_long_chain_of_definitions_is_refused() -> None:
    lets = "".join(f"let a{i} = a{i + 1}\n" for i in range(2000)) + "let a2000 = 1\n"
    assert only(heads("a0", lets)).code == "E0120"


def test_origins_of_fields_and_model() -> None:
    model = one(spec(GQA + FFN))
    assert model.origin.fields["dim"][0].text == "64"
    assert model.schedule[0].attention.origin.span.text == "attention = gqa { heads = 4 }"
    assert "bias" not in model.schedule[0].attention.origin.fields
    assert FIELDS.startswith("vocab")


def test_docs_reach_the_model() -> None:
    assert (
        one("arch 1\n## A small one.\n## For tests.\n" + spec(GQA + FFN).removeprefix("arch 1\n\n")).doc
        == "A small one.\nFor tests."
    )


def test_a_value_out_of_its_limits_is_reported_where_it_is_set_alone() -> None:
    """Every drawer inherits `dim`; saying so for each of them would be an echo."""
    text = spec(GQA.replace("}", ", head_dim = 16 }") + FFN).replace("dim = 64", "dim = -64")
    problem = only(text)
    assert (problem.code, problem.span.text, problem.span.line) == ("E0204", "-64", 4)


def test_a_drawer_whose_inherited_value_is_set_in_it_is_reported_too() -> None:
    problem = only(spec(GQA.replace("}", ", dim = -2, head_dim = 16 }") + FFN))
    assert (problem.code, problem.span.text) == ("E0204", "-2")
