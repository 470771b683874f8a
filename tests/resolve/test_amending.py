"""`=` replaces, `{ }` amends, values are late-bound: the rules of LANGUAGE.md, each with a spec."""

from __future__ import annotations

import pytest

from tests.resolve.support import FFN, FIELDS, GQA, found, one, only, spec

HOUSE = f"""arch 1
model base {{
{FIELDS}
  let long = yarn {{ factor = 16, original = 1Ki }}
  attention swa = sparse {{ heads = 8, window = 16, rope = rope {{ theta = 10e3 }} }}
  attention csa = swa {{ rope = long, compress = pool {{ ratio = 4, indexer = spark {{ topk = 8 }} }} }}
  attention hca = csa {{ compress = pool {{ ratio = 16 }} }}
  ffn wide = swiglu {{ hidden = 4 * dim }}
  schedule {{ attention = [swa * 2, (csa, hca) * rest] }}
}}
"""


def child(body: str) -> str:
    """The house with a model that extends it."""
    return f"{HOUSE}model child extends base {{\n{body}\n}}\n"


def attentions(text: str) -> dict[str, object]:
    """The attention drawers of the last model by name."""
    return {layer.attention.label: layer.attention for layer in one(text).schedule}


def test_a_derived_drawer_takes_over_what_it_does_not_change() -> None:
    parts = attentions(HOUSE)
    assert list(parts) == ["swa", "csa", "hca"]
    assert [p.window for p in parts.values()] == [16, 16, 16]
    assert [p.rope.kind for p in parts.values()] == ["rope", "yarn", "yarn"]
    assert (parts["swa"].compress, parts["csa"].compress.ratio, parts["hca"].compress.ratio) == (None, 4, 16)


def test_replacing_a_slot_drops_what_stood_there() -> None:
    assert attentions(HOUSE)["hca"].compress.indexer is None


def test_a_childs_dim_recomputes_a_parents_hidden() -> None:
    model = one(child("dim = 128"))
    assert model.schedule[0].ffn.hidden == 512
    assert model.schedule[0].attention.dim == 128
    assert model.schedule[0].attention.head_dim == 16


def test_amending_a_drawer_reaches_all_that_derive_from_it() -> None:
    parts = attentions(child("swa.window = 32"))
    assert [p.window for p in parts.values()] == [32, 32, 32]


def test_amending_a_derived_drawer_leaves_its_base_alone() -> None:
    parts = attentions(child("csa { window = 32 }"))
    assert [parts[n].window for n in ("swa", "csa", "hca")] == [16, 32, 32]


@pytest.mark.parametrize(
    "change",
    [
        "csa.compress.indexer.topk = 3",
        "csa.compress.indexer { topk = 3 }",
        "csa.compress { indexer.topk = 3 }",
        "csa { compress { indexer { topk = 3 } } }",
        "csa { compress.indexer.topk = 3 }",
    ],
)
def test_a_value_at_any_depth_may_be_amended_in_any_form(change: str) -> None:
    parts = attentions(child(change))
    assert (parts["csa"].compress.indexer.topk, parts["csa"].compress.ratio) == (3, 4)


def test_amending_with_equals_replaces_the_whole_drawer() -> None:
    problem = only(child("csa.compress.indexer = spark { heads = 2 }"))
    assert (problem.code, problem.message) == ("E0201", "`spark` needs `topk`")


def test_none_switches_a_part_off() -> None:
    assert attentions(child("csa.compress = none"))["csa"].compress is None


def test_amending_what_is_switched_off_is_an_error() -> None:
    problem = only(child("swa.compress.ratio = 2"))
    assert (problem.code, problem.message, problem.span.text) == (
        "E0117",
        "there is no `compress` to amend",
        "swa.compress.ratio = 2",
    )


def test_a_let_that_holds_a_drawer_may_be_amended() -> None:
    assert attentions(child("long.factor = 32"))["hca"].rope.factor == 32


def test_lists_and_scalars_are_replaced_whole() -> None:
    base = spec(GQA + FFN + "memory t = table { rows = 10, orders = [2, 3, 4] }")
    assert one(base + "model c extends m { t.orders = [5] }").schedule[0].memory.orders == [5]


def test_a_child_may_define_a_name_again() -> None:
    parts = attentions(child("attention swa = sparse { heads = 4, window = 8 }"))
    assert [(p.heads, p.window) for p in parts.values()] == [(4, 8)] * 3
    assert parts["swa"].rope.theta == 10_000


def test_an_unnamed_drawer_is_amended_by_its_slot() -> None:
    assert one(spec(GQA + FFN) + "model c extends m { attention.heads = 8 }").schedule[0].attention.heads == 8
    assert one(spec(GQA + FFN) + "model c extends m { attention { heads = 8 } }").schedule[0].attention.heads == 8


def test_the_default_drawer_of_a_slot_may_be_amended() -> None:
    assert one(spec(GQA + FFN + "norm.eps = 1e-3")).norm.eps == 1e-3
    assert one(spec(GQA + FFN + "norm { eps = 1e-3 }")).norm.eps == 1e-3


def test_an_inherited_drawer_is_shared_until_it_is_amended() -> None:
    model = one(
        spec(
            "norm = rms { eps = 1e-3 }\n"
            "attention = sparse { heads = 4, window = 2, compress = pool { ratio = 2, norm.eps = 0.5 } }\n" + FFN
        )
    )
    attention = model.schedule[0].attention
    assert attention.norm is model.norm
    assert (attention.compress.norm.eps, model.norm.eps) == (0.5, 1e-3)


def test_amending_an_unnamed_slot_that_has_named_drawers_names_them() -> None:
    problem = only(child("attention.window = 3"))
    assert problem.code == "E0117"
    assert problem.help == "amend one of its drawers: `swa`, `csa` and `hca`"


def test_amending_a_misspelt_drawer_suggests_the_right_one() -> None:
    problem = only(child("cza.window = 3"))
    assert (problem.code, problem.span.text, problem.help) == ("E0117", "cza", "did you mean `csa`?")


def test_amending_a_misspelt_part_points_at_it() -> None:
    problem = only(child("csa.compress.indxer.topk = 3"))
    assert (problem.code, problem.span.text, problem.help) == ("E0203", "indxer", "did you mean `indexer`?")


def test_a_value_has_no_parts() -> None:
    assert only(child("csa.window.size = 3")).code == "E0211"
    assert only(child("dim { size = 3 }")).code == "E0211"


def test_later_amendments_win() -> None:
    model = one(child("csa.window = 32\ncsa { window = 64 }"))
    assert model.schedule[2].attention.window == 64


def test_a_name_of_another_slot_cannot_be_taken_over() -> None:
    problem = only(child("ffn csa = swiglu { hidden = 3 }"))
    assert (problem.code, problem.related[0].span.line) == (
        "E0108",
        HOUSE[: HOUSE.index("attention csa")].count("\n") + 1,
    )


def test_the_spans_of_a_value_run_from_the_override_to_the_base() -> None:
    attention = attentions(child("csa.window = 64"))["hca"]
    assert [s.text for s in attention.origin.fields["window"]] == ["64", "16"]
    assert [s.text for s in attention.origin.fields["compress"]] == [
        "pool { ratio = 16 }",
        "pool { ratio = 4, indexer = spark { topk = 8 } }",
    ]


def test_a_file_level_drawer_is_shared_and_changed_per_model() -> None:
    text = f"""arch 1
attention local = sparse {{ heads = 4, window = 8 }}
model a {{ {FIELDS} {FFN} attention = local }}
model b extends a {{ local.window = 2 }}
"""
    assert found(text) == ()
    assert one(text).schedule[0].attention.window == 2
    assert one(text.replace("local.window = 2", "")).schedule[0].attention.window == 8
