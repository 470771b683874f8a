"""Resolve over trees that did not parse whole: what can be found is found, and no mistake is reported twice."""

from __future__ import annotations

import pytest

from archc.resolve import check_text
from tests.resolve.support import FFN, FIELDS, GQA, found, only, spec


def resolved_codes(text: str) -> list[tuple[str, str]]:
    """Code and text of the diagnostics that the parser did not give."""
    return [(d.code, d.span.text if d.span else "") for d in found(text) if not d.code.startswith("E00")]


@pytest.mark.parametrize(
    "broken",
    [
        "attention = gqa { heads = }",
        "attention gqa gqa { heads = 4 }",
        "atention = gqa { heads = 4 }",
        "attention = gqa { heds = 4 }",
        "attention = gpa { heads = 4 }",
        "attention = gqa { heads = 4 @ }",
        "attention = ",
        "attention == gqa { heads = 4 }",
    ],
)
def test_a_broken_drawer_is_not_missing_too(broken: str) -> None:
    assert len(found(spec(broken + "\n" + FFN))) == 1


@pytest.mark.parametrize(
    "broken",
    ["let h = ", "param h = 4 in [1,", "ffn h == swiglu { hidden = 3 }"],
)
def test_a_name_whose_definition_did_not_parse_is_not_unknown_too(broken: str) -> None:
    uses = "attention = gqa { heads = h }\nffn = h\nattention other = h { window = 3 }\n"
    uses += "schedule { memory = h }\nh.window = 3\ncheck h == 4"
    problems = found(spec(uses + "\n" + broken))
    assert [d.code[:3] for d in problems] == ["E00"], problems


def test_a_broken_schedule_leaves_no_unused_drawers() -> None:
    text = spec(
        "attention a = gqa { heads = 4 }\nattention b = a { window = 2 }\nschedule { attention = [a * 2, b *\n}\n" + FFN
    )
    assert resolved_codes(text) == []


def test_errors_beside_a_broken_statement_are_still_found() -> None:
    text = spec("context = 4Ki @ 3\nattention = gqa { heads = 4, windo = 3 }\nnorm = rms { epz = 1 }\n" + FFN)
    assert resolved_codes(text) == [("E0203", "windo"), ("E0203", "epz")]


def test_a_missing_field_is_still_missed_in_a_sound_model() -> None:
    text = spec(GQA + FFN) + "model broken extends m { dim = }\nmodel sound { vocab = 3 }"
    assert ("E0201", "sound") in resolved_codes(text)


def test_a_misspelt_field_is_not_missing_too_but_others_are() -> None:
    problems = found(spec("attention = sparse { hads = 4 }\n" + FFN))
    assert [(d.code, d.message) for d in problems] == [
        ("E0201", "`sparse` needs `window`"),
        ("E0203", "`sparse` has no field `hads`"),
    ]


def test_a_model_whose_base_is_missing_says_nothing_else() -> None:
    for body in (
        "csa.window = 3",
        "layers = 3",
        "h = 8",
        "attention = csa",
        "schedule { ffn = [moe * rest] }",
        "layers = 2 * h",
    ):
        assert only(f"arch 1\nmodel m extends nope {{ {body} }}").code == "E0106"


def test_statements_in_the_wrong_place() -> None:
    for text, code in (
        (f"arch 1\nmodel m {{ {FIELDS} {GQA} {FFN} model n {{ }} }}", "E0109"),
        (f'arch 1\nmodel m {{ {FIELDS} {GQA} {FFN}\n import "x.arch" as x }}', "E0109"),
        (f"arch 1\nmodel m {{ {FIELDS} {FFN} attention = gqa {{ heads = 4, check heads == 4 }} }}", "E0109"),
        (f"arch 1\nmodel m {{ {FIELDS} {FFN} attention = gqa {{ heads = 4, rope x = rope }} }}", "E0109"),
        (f"arch 1\nmodel m {{ {FIELDS} {FFN} attention = gqa {{ heads = 4, rope rope {{ }} }} }}", "E0110"),
        (f"arch 1\nmodel m {{ {FIELDS} {GQA} {FFN} schedule {{ let a = 3 }} }}", "E0109"),
        ("arch 1\nschedule { ffn = x }", "E0109"),
        ("arch 1\nmodel { dim = 3 }", "E0109"),
        ("arch 1\nmodl m { dim = 3 }", "E0109"),
        ("arch 1\na.b = 3", "E0109"),
        ("arch 1\ncheck 1 == 1", "E0109"),
    ):
        assert [d.code for d in found(text)] == [code], text


def test_parts_of_the_language_without_kinds_say_so() -> None:
    for line in ("quantization { weights = fp8 }", "quantization = int8", "quantization q = int8 { block = 8 }"):
        problem = only(spec(GQA + FFN + line))
        assert problem.code == "E0115", line


def test_slots_of_drawers_are_no_slots_of_a_model() -> None:
    for line, owners in (("bypass = confidence", "`engram`"), ("compress = hca { ratio = 4 }", "`windowed`")):
        problem = only(spec(GQA + FFN + line))
        assert (problem.code, problem.help) == ("E0115", f"it is a field of {owners}"), line


def test_empty_files() -> None:
    for text in ("", "\n", "arch 1", "arch 1\n", "# nothing"):
        assert found(text) == ()


def test_what_a_model_lacks_is_not_missed_by_its_drawers_too() -> None:
    problem = only(f"arch 1\nmodel m {{ vocab = 8, layers = 2, context = 8\n{GQA}{FFN} }}")
    assert (problem.code, problem.message) == ("E0201", "`m` needs `dim`")


def test_a_model_that_is_set_with_an_equals_sign_is_not_swallowed() -> None:
    """Found by a mutant: it looked like a named drawer of a slot `model`, which nobody asked for."""
    text = 'arch 1\n\nimport "llama_3_1_8b.arch" as small\n\nmodel big = small.llama_3_1_8b { layers = 64 }\n'
    (diagnostic,) = check_text(text)
    assert (diagnostic.code, diagnostic.span.line) == ("E0109", 5)
    assert diagnostic.help == "write `model big extends BASE { ... }`"


def test_a_drawer_of_an_unknown_slot_beside_models_is_named() -> None:
    (diagnostic,) = check_text("arch 1\n\natention a = gqa { heads = 2 }\n")
    assert (diagnostic.code, diagnostic.help) == ("E0113", "did you mean `attention`?")
