"""What each kind of change is called, on small models and on those of the library."""

from __future__ import annotations

import pytest

from archc.diff import Difference, diff
from archc.diff.fields import texts
from archc.importers import load
from archc.resolve.project import library
from tests.diff.specs import MOE, PLAIN, TEXT, changed, side, small


def levels(found: Difference) -> set[tuple[str, str, bool]]:
    return {(f.level, f.group, f.training_only) for f in found.findings}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vocab": "48"}, {("CKPT", "embedding", False), ("CKPT", "head", False)}),
        ({"groups": "4"}, {("CKPT", "attention", False)}),
        ({"head": "tied"}, {("CKPT", "head", False), ("NUMERICS", "head", False)}),
        ({"mtp": "concat { depth = 1 }"}, {("CKPT", "mtp", False)}),
        ({"theta": "50e3"}, {("NUMERICS", "attention", False)}),
        ({"window": "6"}, {("NUMERICS", "attention", False)}),
        ({"schedule": "[near, far, near]"}, {("NUMERICS", "attention", False)}),
        ({"eps": "1e-5"}, {("NUMERICS", "norm", False)}),
        ({"ffn": "swiglu { hidden = 48, activation = gelu }"}, {("NUMERICS", "ffn", False)}),
        ({"std": "0.01"}, {("NUMERICS", "init", True)}),
        ({"cache": "fp32"}, {("COST", "cache", False)}),
        ({"precision": "fp32"}, {("COST", "precision", False)}),
        ({"context": "96"}, {("COST", "model", False)}),
        ({"doc": "Another."}, {("TEXT", "model", False)}),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_change_has_its_level_and_part(changes: dict[str, str], expected: set) -> None:
    assert levels(changed(**changes)) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("1", "0"), ("2", "0"), {("NUMERICS", "ffn", False)}),
        (("1", "0"), ("1", "1e-4"), {("NUMERICS", "ffn", True)}),
        (("1", "1e-3"), ("1", "1e-4"), {("NUMERICS", "ffn", True)}),
    ],
)
def test_a_loss_is_a_matter_of_training_alone(one: tuple, other: tuple, expected: set) -> None:
    assert levels(diff(*(side(small(ffn=MOE % x)) for x in (one, other)))) == expected


def test_the_weight_of_a_loss_that_no_op_holds() -> None:
    found = diff(*(side(small(mtp=f"concat {{ weight = {w} }}")) for w in ("0.3", "0.1")))
    assert levels(found) == {("NUMERICS", "mtp", True)}


def test_a_cache_that_rounds_gives_other_outputs_and_one_that_does_not_only_costs() -> None:
    v4 = [side(load("deepseek_v4_flash", set={"cache": kind})) for kind in ("bf16", "fp32", "v4_fp8")]
    assert levels(diff(v4[0], v4[1])) == {("COST", "cache", False)}
    assert levels(diff(v4[0], v4[2])) == {("NUMERICS", "cache", False)}


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("  vocab", "  # a comment\n  vocab"),
        TEXT.replace("dim = 32", "dim   =   32"),
        TEXT.replace("dim = 32", "dim = 16 * 2"),
    ],
)
def test_comments_layout_and_spelling_are_text(text: str) -> None:
    from archc.resolve import load_text

    (other,) = load_text(text.format(**PLAIN), "other.arch")
    found = diff(side(small()), side(other))
    assert levels(found) == {("TEXT", "model", False)}
    assert not found.deltas


def test_equal_texts_under_other_file_names_do_not_differ() -> None:
    from archc.resolve import load_text

    (other,) = load_text(TEXT.format(**PLAIN), "other.arch")
    assert not diff(side(small()), side(other)).findings


def test_another_name_of_a_drawer_is_text() -> None:
    from archc.resolve import load_text

    (other,) = load_text(TEXT.replace("near", "close").format(**PLAIN | {"schedule": "[close * 2, far]"}))
    (finding,) = diff(side(small()), side(other)).findings
    assert (finding.level, finding.what, finding.a, finding.b) == ("TEXT", "name", "near", "close")
    assert finding.layers == (0, 1)


@pytest.mark.parametrize("name", sorted(library()))
def test_a_model_does_not_differ_from_itself(name: str) -> None:
    found = diff(*(side(load(name)) for _ in range(2)))
    assert not found.findings
    assert not found.places
    assert found.level is None


# What DeepSeek and Moonshot publish of these: config.json of deepseek-ai/DeepSeek-V3 and moonshotai/Kimi-K2-Base
def test_kimi_k2_is_told_from_deepseek_v3_as_their_configs_do() -> None:
    found = diff(side(load("deepseek_v3")), side(load("kimi_k2")))
    fields = {(p.group, p.field): (p.a, p.b) for p in found.places}
    assert fields["attention", "heads"] == ("128", "64")
    assert fields["attention", "rope.theta"] == ("10000", "50000")
    assert fields["ffn", "experts"] == ("256", "384")
    assert fields["model", "vocab"] == ("129_280", "163_840")
    assert fields["ffn", "router.scale"] == ("2.5", "2.827")
    shapes = {f.what: (f.change, f.layers, f.a, f.b) for f in found.findings if f.level == "CKPT"}
    assert shapes["mlp.experts.gate_up_proj"] == (
        "reshaped",
        tuple(range(3, 61)),
        "[256, 4096, 7168]",
        "[384, 4096, 7168]",
    ) or shapes["mlp.experts.gate_up_proj"][:2] == ("added", (1, 2))
    dense = [f for f in found.findings if f.change == "removed" and f.what == "mlp.gate_proj"]
    assert [f.layers for f in dense] == [(1, 2)]


def test_findings_know_where_both_values_stand() -> None:
    found = diff(side(load("deepseek_v3")), side(load("kimi_k2")))
    (theta,) = [p for p in found.places if p.field == "rope.theta"]
    assert theta.a_spans[0].text.replace(" ", "") == "10e3"
    assert theta.b_spans[0].text.replace(" ", "") == "50e3"
    for finding in found.findings:
        assert finding.places, finding


def test_a_difference_between_large_models_stays_readable() -> None:
    """DeepSeek-V3 has 61 layers and 45 thousand matrices as published; nobody reads so many lines."""
    found = diff(side(load("deepseek_v3")), side(load("deepseek_v4_flash")))
    assert found.level == "CKPT"
    assert len(found.findings) < 150
    kinds = {(f.a, f.b) for f in found.findings if f.level == "NUMERICS" and f.group == "attention"}
    assert kinds == {("mla", f"windowed ({name})") for name in ("swa", "csa", "hca")}


def test_where_a_table_lies_only_costs() -> None:
    """Host and disk give the logits and gradients of the device (tests/tables)."""
    near, far = (side(load("engram_27b", set={"engram.placement": place})) for place in ("device", "disk"))
    found = diff(near, far)
    assert levels(found) == {("COST", "memory", False)}
    assert [(f.what, f.a, f.b, f.layers) for f in found.findings] == [("placement", "device", "disk", (1, 14))]
    both = diff(near, side(load("engram_27b", set={"engram.placement": "disk", "engram.seed": "5"})))
    assert levels(both) == {("COST", "memory", False), ("NUMERICS", "memory", False)}


def test_of_long_lists_is_told_where_they_differ() -> None:
    few, many = list(range(8)), list(range(100))
    assert texts(few, [1, *few[1:]]) == ("[0, 1, 2, 3, 4, 5, 6, 7]", "[1, 1, 2, 3, 4, 5, 6, 7]")
    other = [*many[:50], 7, *many[51:]]
    assert texts(many, other) == ("[..., 50, 51, 52, ...] of 100", "[..., 7, 51, 52, ...] of 100")
    assert texts(many, many[:-1]) == ("[..., 99] of 100", "[...] of 99")
    assert texts([*many, 1], [*many, 2]) == ("[..., 1] of 101", "[..., 2] of 101")
