"""`archc test`: runs the laws of a package, says what became of each, and exits as the contract says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archc.cli import main

SPEC = str(Path(__file__).parent / "specs" / "mixed.arch")
SMALL = str(Path(__file__).parent / "specs" / "small.arch")
ROUTED = str(Path(__file__).parent / "specs" / "routed.arch")

BIASED = (ROUTED, "deepseek_v3", "deepseek_v4_flash", "deepseek_v4_pro")
"""Specs with routers whose bias moves between steps."""

LIBRARY = ("llama_3_1_8b", "qwen3_235b_a22b", "gpt_oss_20b", "deepseek_v3", "deepseek_v4_flash", "deepseek_v4_pro")
"""Specs of the library, one of every kind of layer."""


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ["test", *words])


@pytest.mark.parametrize(
    "spec",
    [*(pytest.param(spec, marks=pytest.mark.slow) for spec in LIBRARY), SPEC, SMALL, ROUTED],
    ids=[*LIBRARY, "mixed", "small", "routed"],
)
def test_every_law_of_a_fresh_build_holds(spec: str, tmp_path: Path) -> None:
    """As a user runs it: its own process, from a folder that has nothing to do with the project."""
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "archc", "test", spec, "--format", "json"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    outcomes = {law["name"]: law["outcome"] for law in report["laws"]}
    assert report["failed"] == 0
    assert {name for name, outcome in outcomes.items() if outcome == "skipped"} <= {
        "triton kernels agree with their references",
        *(() if spec in BIASED else ("biases move towards even loads after a step and never in a forward",)),
    }
    assert outcomes["every chunking is one forward"] == "passed"
    assert outcomes["the whole model is one graph"] == "passed"
    assert report["passed"] >= 29
    assert list(tmp_path.iterdir()) == []


def test_a_broken_package_exits_1_and_shows_why(mixed: Path, tmp_path: Path) -> None:
    package = shutil.copytree(mixed, tmp_path / mixed.name)
    plan = json.loads((package / "tests" / "tiny_plan.json").read_text())
    plan["parameters"][0]["shape"][0] += 1
    (package / "tests" / "tiny_plan.json").write_text(json.dumps(plan))
    result = invoke(str(package), "-k", "those_of_the_plan or stands_alone")
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert "parameters are those of the plan" in result.output
    assert "AssertionError" in result.output
    assert "1 of 2 laws hold" in result.output


def test_the_project_around_a_package_does_not_interfere(mixed: Path, tmp_path: Path) -> None:
    """Neither the configuration nor the conftest of the folder a package lies in is meant for its tests."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = ['--no-such-option']\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not mine')\n")
    package = shutil.copytree(mixed, tmp_path / mixed.name)
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    result = invoke(str(package), "-k", "alone")
    assert result.exit_code == 0, result.output
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


def test_wrong_usage_exits_2(mixed: Path, tmp_path: Path) -> None:
    for words, said in (
        ((str(tmp_path),), "not a package that archc wrote"),
        ((str(mixed), "--set", "dim=64"), "already built"),
        ((str(mixed), "-k", "no_such_law"), "no test matches"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2
        assert said in result.output


def test_a_spec_with_mistakes_exits_1_with_diagnostics(tmp_path: Path) -> None:
    spec = tmp_path / "bad.arch"
    spec.write_text(Path(SPEC).read_text().replace("kv_heads = 3", "kv_heads = 4"))
    result = invoke(str(spec))
    assert result.exit_code == 1
    assert "kv_heads = 4 does not divide heads = 6" in result.output


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from archc.cli import _needs

    find = _needs.find_spec
    monkeypatch.setattr(_needs, "find_spec", lambda name: None if name in ("torch", "hypothesis") else find(name))
    result = invoke(SPEC)
    assert result.exit_code == 2
    assert "pip install torch hypothesis" in result.output
