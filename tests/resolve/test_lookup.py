"""How a name on the right is looked up: the field's words, drawers and kinds of the slot, then `let`, `param` and model
fields outward.
"""

from __future__ import annotations

import pytest

from tests.resolve.support import FFN, FIELDS, GQA, found, one, only, spec


def test_a_word_of_the_field_comes_before_a_let() -> None:
    model = one(spec(GQA + FFN + 'memory t = table { rows = 1, place = host, note = host }\nlet host = "remark"'))
    assert (model.schedule[0].memory.place, model.schedule[0].memory.note) == ("host", "remark")


def test_a_let_may_hold_a_word() -> None:
    assert (
        one(spec(GQA + FFN + "memory t = table { rows = 1, place = spot }\nlet spot = host")).schedule[0].memory.place
        == "host"
    )


def test_a_word_may_stand_beside_a_type() -> None:
    depths = [
        one(spec(GQA + FFN + f"memory t = table {{ rows = 1, depth = {d} }}")).schedule[0].memory.depth
        for d in ("auto", "3")
    ]
    assert depths == ["auto", 3]


def test_a_drawer_named_like_a_kind_is_made_from_the_kind() -> None:
    model = one(spec("attention gqa = gqa { heads = 4 }\nffn swiglu = swiglu { hidden = 8 }"))
    assert model.schedule[0].attention.label == "gqa"
    assert model.schedule[0].ffn.hidden == 8


def test_a_drawer_comes_before_a_kind_of_its_name() -> None:
    model = one(
        spec(
            "attention gqa = gqa { heads = 4, window = 3 }\nattention b = gqa { heads = 8 }\n"
            "schedule { attention = [gqa, b * rest] }" + "\n" + FFN
        )
    )
    assert model.schedule[1].attention.window == 3


def test_the_slot_decides_which_of_two_things_a_name_means() -> None:
    body = "attention pool = sparse { heads = 4, window = 2, compress = pool { ratio = 2 } }\n"
    assert one(spec(body + FFN)).schedule[0].attention.compress.kind == "pool"


def test_a_drawer_of_another_slot_does_not_fit() -> None:
    problem = only(
        spec("attention a = sparse { heads = 4, window = 2, compress = c }\nindexer c = spark { topk = 1 }\n" + FFN)
    )
    assert (problem.code, problem.message) == ("E0114", "`c` is an indexer drawer; a compress drawer is needed here")


def test_named_drawers_of_nested_slots() -> None:
    body = "rope far = rope { theta = 1e6 }\nattention = gqa { heads = 4, rope = far }\n" + FFN
    rope = one(spec(body)).schedule[0].attention.rope
    assert (rope.theta, rope.label) == (1e6, "far")


def test_a_let_may_be_a_drawer_of_whatever_slot_asks() -> None:
    body = "let far = rope { theta = 1e6 }\nattention = gqa { heads = 4, rope = far { dim = 8 } }\n" + FFN
    rope = one(spec(body)).schedule[0].attention.rope
    assert (rope.theta, rope.dim, rope.label) == (1e6, 8, "rope")


def test_a_part_of_another_drawer() -> None:
    body = "attention a = gqa { heads = 4, rope = rope { theta = 77 } }\n"
    body += "attention b = gqa { heads = a.heads * 2, rope = a.rope { dim = 4 } }\n"
    model = one(spec(body + FFN + "schedule { attention = [a, b * rest] }"))
    b = model.schedule[1].attention
    assert (b.heads, b.rope.theta, b.rope.dim) == (8, 77.0, 4)


def test_a_sibling_field_is_never_read() -> None:
    problem = only(spec("attention = gqa { heads = 4, kv_heads = heads }\n" + FFN))
    assert (problem.code, problem.span.text) == ("E0118", "heads")


def test_a_field_reads_the_param_of_its_own_name() -> None:
    assert (
        one(spec("param heads = 8 in [4, 8]\nattention = gqa { heads = heads }\n" + FFN)).schedule[0].attention.heads
        == 8
    )


def test_model_fields_may_be_read_in_the_model_and_its_drawers() -> None:
    fields = "vocab = 10 * dim, dim = 64, layers = 2, context = 8"
    text = f"arch 1\nmodel m {{ {fields}\n {GQA} ffn = swiglu {{ hidden = dim * 4 }} }}"
    model = one(text)
    assert (model.vocab, model.schedule[0].ffn.hidden) == (640, 256)


@pytest.mark.parametrize("text", ["let a = b\nlet b = a", "let a = a", "let a = 1 + b\nlet b = c\nlet c = a"])
def test_a_circle_of_lets_is_one_error(text: str) -> None:
    problem = only(spec(GQA.replace("4", "a") + FFN + text))
    assert problem.code in ("E0119", "E0118")


def test_a_circle_names_its_steps() -> None:
    problem = only(spec(GQA.replace("4", "a") + FFN + "let a = b\nlet b = a"))
    assert (problem.code, problem.message) == ("E0119", "`a` is defined by itself: `a` -> `b` -> `a`")


def test_drawers_in_a_circle() -> None:
    problem = only(
        spec(
            "attention a = b { heads = 2 }\nattention b = a { heads = 3 }\nschedule { attention = [a, b * rest] }\n"
            + FFN
        )
    )
    assert problem.code == "E0119"


def test_model_fields_in_a_circle() -> None:
    text = f"arch 1\nmodel m {{ vocab = dim, dim = vocab, layers = 2, context = 8\n {GQA} {FFN} }}"
    assert only(text).code == "E0119"


def test_a_field_never_means_itself() -> None:
    text = spec(GQA + FFN) + "model c extends m { dim = dim * 2 }"
    problem = only(text)
    assert (problem.code, problem.help) == ("E0118", "a name never means itself")


def test_a_childs_let_of_the_same_name_reaches_outward() -> None:
    text = spec("let h = h * 2\n" + GQA.replace("4", "h") + FFN, before="let h = 4")
    assert one(text).schedule[0].attention.heads == 8


def test_a_let_inside_a_drawer_is_seen_there_only() -> None:
    body = "attention a = gqa { let h = 8, heads = h }\nattention b = gqa { heads = h }\nlet h = 4\n" + FFN
    model = one(spec(body + "schedule { attention = [a, b * rest] }"))
    assert [layer.attention.heads for layer in model.schedule[:2]] == [8, 4]


def test_inherited_fields_come_from_the_nearest_drawer() -> None:
    body = "attention = sparse { heads = 2, window = 2, compress = pool { ratio = 2 } }\n"
    compress = one(spec(body + FFN)).schedule[0].attention.compress
    assert (compress.heads, compress.head_dim) == (2, 32)


def test_lists_of_drawers() -> None:
    body = "attention = sparse { heads = 2, window = 2, stages = [pool { ratio = 2 }, p] }\n"
    body += "compress p = pool { ratio = 3 }\n"
    stages = one(spec(body + FFN)).schedule[0].attention.stages
    assert [(s.ratio, s.label, s.heads) for s in stages] == [(2, "pool", 2), (3, "p", 2)]


def test_unknown_names_get_a_suggestion() -> None:
    problem = only(spec("let hidden_width = 4\nattention = gqa { heads = hiden_width }\n" + FFN))
    assert (problem.code, problem.help) == ("E0118", "did you mean `hidden_width`?")


def test_a_kind_is_not_a_number() -> None:
    problem = only(spec("attention full = gqa { heads = 4 }\nffn = swiglu { hidden = full }"))
    assert (problem.code, problem.message) == ("E0118", "`full` is an attention drawer, not a value")


def test_all_errors_of_a_run_are_reported() -> None:
    body = "attention = gqa { heads = 4.5, windo = 3, qk_norm = ful, rope = rop { } }\n"
    body += "ffn = swiglu { hidden = -1 }\nnorm = rms { eps = x }"
    codes = [d.code for d in found(spec(body))]
    assert sorted(codes) == ["E0114", "E0118", "E0202", "E0203", "E0204", "E0205"]


def test_one_mistake_is_one_error_however_often_it_is_used() -> None:
    body = (
        "let width = 3 / 0\nattention a = gqa { heads = width }\nattention b = a { window = width }\n"
        "schedule { attention = [a, b * rest] }\n" + FFN
    )
    assert only(spec(body)).code == "E0208"


def test_labels() -> None:
    model = one(
        spec(
            "attention local = gqa { heads = 4 }\nattention far = local\n"
            + FFN
            + "schedule { attention = [local, far, local { heads = 2 }, gqa { heads = 1 } * rest] }"
        )
    )
    assert [layer.attention.label for layer in model.schedule[:4]] == ["local", "far", "gqa", "gqa"]
    assert model.schedule[3] is model.schedule[5]


def test_duplicates_name_the_first() -> None:
    problem = only(f"arch 1\nmodel m {{\n{FIELDS}{GQA}{FFN}let a = 1\nparam a = 2\nlet b = a\nnorm.eps = b\n}}")
    assert (problem.code, problem.related[0].message) == ("E0108", "first defined here")


def test_the_lets_of_a_drawer_see_each_other() -> None:
    assert one(spec("attention = gqa { let a = b * 2, let b = 4, heads = a }\n" + FFN)).schedule[0].attention.heads == 8
