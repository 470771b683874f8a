"""`archc diff`: exit codes, JSON, two models of a file, configs, and text that fits the screen."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc.cli import main
from archc.cli._diff.text import _given
from archc.diagnostics import Source, Span
from archc.diff import Place
from tests.importers.configs import LLAMA_3_1
from tests.oracles.engram import table_sizes

TWO = """arch 1
model one {
  vocab = 50, dim = 24, layers = 2, context = 64
  attention = gqa { heads = 2 }
  ffn = swiglu { hidden = 32 }
}
model two extends one {
  attention { rope = rope { theta = 10e3 } }
}
"""


def run(*words: str, code: int = 0, columns: int = 120) -> str:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(main, ["diff", *words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def two(tmp_path: Path) -> str:
    path = tmp_path / "two.arch"
    path.write_text(TWO)
    return str(path)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("vocab=64", {"ckpt": 1, "numerics": 1, "cost": 1, "text": 1}),
        ("norm.eps=1e-3", {"ckpt": 0, "numerics": 1, "cost": 1, "text": 1}),
        ("optimizer=adamw", {"ckpt": 0, "numerics": 0, "cost": 0, "text": 1}),
        ("cache=fp32", {"ckpt": 0, "numerics": 0, "cost": 1, "text": 1}),
    ],
)
def test_fails_on_what_it_is_told_to(two: str, change: str, code: dict[str, int]) -> None:
    run(two, two, "--set-b", change)
    for level, expected in code.items():
        run(two, two, "--set-b", change, "--fail-on", level, code=expected)


def test_two_models_of_a_file(two: str) -> None:
    data = json.loads(run(f"{two}@one", f"{two}@two", "--format", "json"))
    assert (data["a"]["model"], data["b"]["model"], data["level"]) == ("one", "two", "NUMERICS")
    (finding,) = [f for f in data["findings"] if f["level"] == "NUMERICS"]
    assert finding["group"] == "attention"
    assert [place["field"] for place in finding["places"]] == ["rope"]
    assert re.search(r"two\.arch:8:\d+$", finding["places"][0]["b_at"][0])


def test_a_model_that_is_not_there_is_told(two: str) -> None:
    assert "has no model `three`" in run(two, f"{two}@three", code=1)


def test_options_apply_to_both_and_to_one(two: str) -> None:
    data = json.loads(run(two, two, "--set", "vocab=64", "--set-b", "ffn.hidden=40", "--format", "json"))
    assert {f["group"] for f in data["findings"]} == {"ffn"}
    assert run(two, two, "--set", "vocab=64").endswith("the same model, in the same words\n")


def test_configs_of_transformers_and_specs_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_3_1["llama_3_1_70b"]))
    assert "the same model, in the same words" in run(str(path), str(path))
    data = json.loads(run(str(path), "llama_3_1_8b", "--format", "json"))
    assert data["level"] == "CKPT"


def test_json_has_every_figure_that_differs(two: str) -> None:
    costs = []
    for vocab in (50, 64):
        words = ["cost", f"{two}", "--set", f"vocab={vocab}", "--format", "json"]
        costs.append(json.loads(CliRunner().invoke(main, words).output))
    data = json.loads(run(two, two, "--set-b", "vocab=64", "--format", "json"))
    for section, key in (("params", "total"), ("params", "active"), ("flops", "weighted_fp8_equivalent")):
        a, b = (c[section][key] for c in costs)
        assert data["deltas"][f"{section}.{key}"] == {"a": a, "b": b, "delta": b - a}
    assert "params.buffers" not in data["deltas"]
    assert data["workload"] == costs[0]["workload"]


@pytest.mark.parametrize("columns", [80, 120, 160])
@pytest.mark.parametrize("other", ["deepseek_v4_flash", "kimi_k2"])
def test_text_fits_and_nothing_is_cut(other: str, columns: int) -> None:
    text = run("deepseek_v3", other, columns=columns)
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in text
    words = text.split()
    shown = [f["what"] for f in json.loads(run("deepseek_v3", other, "--format", "json"))["findings"]]
    for what in shown:
        last = what.removeprefix("self_attn.").removeprefix("mlp.").split()[0]
        assert any(last in word for word in words), what
    start = next(i for i, line in enumerate(lines) if line.startswith("parameters  "))
    figures = [line for line in lines[start : lines.index("", start)] if "%" in line]
    assert len({line.rindex("%") for line in figures}) == 1, "changes are aligned"


@pytest.mark.parametrize("mode", ["decode", "train"])
def test_flops_of_training_are_shown_where_models_train(mode: str) -> None:
    text = run("deepseek_v3", "deepseek_v4_flash", "--mode", mode)
    assert ("to train on one" in text) == (mode == "train")


def test_places_are_lines_of_the_specs() -> None:
    from archc import resources

    text = " ".join(run("deepseek_v3", "kimi_k2", columns=160).split())
    place = r"heads 128 -> 64, at \S+deepseek_v3\.arch:(\d+):\d+ -> \S+kimi_k2\.arch:(\d+):\d+"
    found = re.search(place, text)
    assert found is not None
    for name, line in zip(("deepseek_v3", "kimi_k2"), found.groups(), strict=True):
        assert "heads" in (resources.specs() / f"{name}.arch").read_text().splitlines()[int(line) - 1]


def test_tables_of_a_memory_are_told_once_and_briefly() -> None:
    """What follows from `rows` is not said to be set."""
    printed = run("engram_27b", "engram_40b", columns=200)
    told = printed[printed.index("\nmemory\n") :]
    first = [", ".join(f"{n:_}" for n in table_sizes(rows, 1, 2, 8)[0][:3]) for rows in (2_262_400, 7_239_680)]
    assert f"primes: [{first[0]}, ...] of 16 -> [{first[1]}, ...] of 16\n" in told
    assert "sizes" not in told
    assert told.count("rows 2_262_400 -> 7_239_680") == 1
    assert len(told.strip().splitlines()) == 6


def test_fields_that_follow_from_others_are_not_said_to_be_set() -> None:
    """A derived field is told where nothing else of the group is."""
    a, b = Place(group="memory", field="sizes", a="1", b="2"), Place(group="memory", field="rows", a="1", b="2")
    at = Span(Source("", "x.arch"), 1, 1, 1, 2)
    given = replace(b, a_spans=(at,))
    assert list(_given([a, given])) == [given]
    assert list(_given([a, b])) == [a, b]
    apart = replace(a, layers=(1,)), replace(given, layers=(2,))
    assert list(_given([*apart])) == [*apart]
