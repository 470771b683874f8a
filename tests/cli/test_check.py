"""`archc check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc.cli import main

BROKEN = Path(__file__).parents[1] / "lang" / "broken.arch"
SMALL = """\
arch 1
model one {
  vocab = 256, dim = 64, layers = 2, context = 1Ki
  param h = 4 in [2, 4, 8]
  attention = gqa { heads = h }
  ffn = swiglu { hidden = 256 }
  check h <= 4 else "few heads"
}
model two extends one { dim = 128 }
"""


def run(*args):
    return CliRunner().invoke(main, ["check", *map(str, args)])


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.arch"
    path.write_text(SMALL)
    return path


def test_library_specs_are_clean():
    result = run("llama_3_1_8b", "llama_3_1_70b")
    assert (result.exit_code, result.output) == (0, "2 specs, 2 models: no findings\n")


def test_a_broken_spec():
    result = run(BROKEN)
    assert result.exit_code == 1
    assert result.output.count("\nerror[") + result.output.startswith("error[") == 9
    assert result.output.endswith("\n\n1 spec, 0 models: 9 errors\n")
    assert f" --> {BROKEN}:3:8\n" in result.output


def test_json_is_one_document():
    document = json.loads(run("--format", "json", BROKEN).output)
    assert [d["span"]["line"] for d in document["diagnostics"]] == [3, 6, 8, 9, 10, 11, 12, 13, 15]


def test_sarif_and_github():
    assert len(json.loads(run("--format", "sarif", BROKEN).output)["runs"][0]["results"]) == 9
    assert len(run("--format", "github", BROKEN).output.splitlines()) == 9


def test_all_models_of_a_file_or_one(small):
    assert run(small).output == "1 spec, 2 models: no findings\n"
    assert run(small, "-m", "two").output == "1 spec, 1 model: no findings\n"
    result = run(small, "-m", "tow")
    assert result.exit_code == 1
    assert "`two`" in result.output


def test_params_and_sets_are_checked_like_source(small):
    assert run(small, "-P", "h=2").exit_code == 0
    result = run(small, "-P", "h=3")
    assert result.exit_code == 1
    assert "E0206" in result.output
    result = run(small, "-P", "h=8")
    assert result.exit_code == 1
    assert "few heads" in result.output
    assert run(small, "--set", "attention.heads=2").exit_code == 0
    result = run(small, "--set", "attention.heads=3Qi")
    assert result.exit_code == 1
    assert "unknown unit `Qi`" in result.output


def test_a_cost_budget_is_checked(small):
    text = small.read_text().replace('check h <= 4 else "few heads"', "check cost.params.total <= 10")
    small.write_text(text)
    result = run(small)
    assert result.exit_code == 1
    assert "E0501" in result.output


def test_warnings_fail_only_when_strict(small):
    small.write_text(SMALL.replace("1Ki", "1K"))
    result = run(small)
    assert result.exit_code == 0
    assert "warning[W0004]" in result.output
    assert "1 warning" in result.output.splitlines()[-1]
    assert run("--strict", small).exit_code == 1


def test_an_unknown_spec():
    result = run("lama_3_1_8b")
    assert result.exit_code == 1
    assert "did you mean `llama_3_1_8b`?" in result.output


@pytest.mark.parametrize(
    "args", [[], ["-P", "h", "llama_3_1_8b"], ["--set", "=3", "llama_3_1_8b"], ["--format", "xml", "llama_3_1_8b"]]
)
def test_wrong_usage_is_2(args):
    assert run(*args).exit_code == 2
