"""`archc drawers` and `archc schema`."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from archc.cli import main

TOYS = Path(__file__).parents[1] / "resolve" / "drawers"


def run(*args: str, code: int = 0) -> str:
    """The output of a command that exits with ``code``."""
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, args)
    assert result.exit_code == code, result.output
    return result.output


def test_all_slots_and_kinds() -> None:
    lines = run("drawers").splitlines()
    assert lines[0].split() == ["slot", "kind", "what", "it", "is"]
    assert any(line.split()[:1] == ["gqa"] and "Ainslie" in line for line in lines)
    assert any(line.startswith("compress ") for line in lines)


def test_one_slot_lists_its_kinds_only() -> None:
    kinds = [line.split()[0] for line in run("drawers", "norm").splitlines()[1:]]
    assert kinds == ["norm", "layer", "rms"]


def test_one_kind_shows_its_fields() -> None:
    for name in ("yarn", "rope/yarn"):
        rows = {line.split()[0]: line for line in run("drawers", name).splitlines()}
        assert rows["original"].split()[1:5] == ["int", "tokens", "required", ">"]
        assert "base of the frequencies" in rows["theta"]


def test_the_model() -> None:
    rows = {line.split()[0] for line in run("drawers", "model").splitlines()}
    assert {"vocab", "dim", "norm", "attention", "ffn", "memory"} <= rows


def test_drawers_of_a_folder() -> None:
    assert "topk" in run("drawers", "spark", "--drawers", str(TOYS))


def test_an_unknown_name_is_a_usage_error() -> None:
    assert "did you mean `gqa`?" in run("drawers", "gpa", code=2)


def test_a_broken_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "bad.py").write_text("x = 1")
    for command in ("drawers", "schema"):
        assert "bad.py cannot be used" in " ".join(run(command, "--drawers", str(tmp_path), code=2).split())


def test_json() -> None:
    (entry,) = json.loads(run("drawers", "gqa", "--format", "json"))
    assert (entry["slot"], entry["kind"]) == ("attention", "gqa")
    assert entry["fields"][1] == {
        "name": "heads",
        "type": "int",
        "doc": "query heads",
        "domain": "> 0",
        "required": True,
    }


def test_schema_is_json_schema() -> None:
    schema = json.loads(run("schema"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "attention/gqa" in schema["$defs"]
