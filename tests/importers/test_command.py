"""`archc import` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import archc.importers
from archc.cli import main
from archc.diagnostics import ArchError, Sink
from archc.importers import is_config, load_config
from archc.resolve import load
from tests.importers.configs import LLAMA_3_1, small


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """Writes a config and returns its path."""

    def write(values: dict[str, Any], name: str = "config.json") -> Path:
        path = tmp_path / "Tiny-1.5" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values, indent=2))
        return path

    return write


def test_standard_output_is_the_spec(config: Any, tmp_path: Path) -> None:
    result = run(config(small(pretraining_tp=2)))
    assert result.exit_code == 0
    assert "warning[W0601]" in result.stderr
    spec = tmp_path / "spec.arch"
    spec.write_text(result.stdout)
    assert load(spec).name == "tiny_1_5"


def test_a_file_is_named_after_itself(config: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "my-model.arch"
    result = run(config(LLAMA_3_1["llama_3_1_8b"]), "-o", out)
    assert result.exit_code == 0
    assert result.stdout == f"wrote {out}: model my_model\n"
    assert load(out).name == "my_model"
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_names(config: Any) -> None:
    assert "model other {" in run(config(small()), "--name", "other").stdout
    assert "model seven {" in run(config(small(), "Seven.json")).stdout
    assert "model model_7b {" in run(config(small(_name_or_path="org/7B"))).stdout
    wrong = run(config(small()), "--name", "a-b")
    assert wrong.exit_code == 2
    assert "`a_b` can" in wrong.stderr


def test_errors_write_nothing(config: Any, tmp_path: Path) -> None:
    out = tmp_path / "spec.arch"
    result = run(config(small(hidden_act="mish", hiden_size=3)), "-o", out)
    assert result.exit_code == 1
    assert not out.exists()
    assert "error[E0605]" in result.stdout
    assert "error[E0603]" in result.stdout
    assert '"hidden_act": "mish"' in result.stdout, "the line of the config is shown"


def test_what_the_language_refuses_is_an_error(config: Any) -> None:
    """A factor below 1 is only a warning to transformers."""
    result = run(config(small(rope_scaling={"type": "linear", "factor": 0.5})))
    assert result.exit_code == 1
    assert "error[E02" in result.stdout


def test_strict_and_json(config: Any) -> None:
    path = config(small(pretraining_tp=2))
    assert run(path, "--strict").exit_code == 1
    result = json.loads(run(path, "--format", "json").stdout)
    assert result["model"] == "tiny_1_5"
    assert result["spec"].startswith("arch 1\n")
    assert [d["code"] for d in result["diagnostics"]] == ["W0601"]
    failed = run(config(small(hidden_act="mish")), "--format", "json")
    assert failed.exit_code == 1
    assert [d["code"] for d in json.loads(failed.stdout)["diagnostics"]] == ["E0605"]


def test_mtp(config: Any) -> None:
    result = run(config(small()), "--mtp")
    assert result.exit_code == 0
    assert "W0603" in result.stderr


def test_files_that_are_no_configs(config: Any, tmp_path: Path) -> None:
    assert run(tmp_path / "absent.json").exit_code == 2
    assert run(tmp_path).exit_code == 2
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff\xfe{")
    assert "E0601" in run(broken).stdout
    broken.write_text("{")
    assert run(broken).exit_code == 1


def test_configs_are_specs(config: Any) -> None:
    path = config(small())
    assert is_config(path)
    assert not is_config("llama_3_1_8b")
    assert not is_config("a.arch")
    imported = load_config(path, set={"layers": 5, "ffn.hidden": "2 * 24"})
    assert (imported.model.layers, len(imported.model.schedule)) == (5, 5)
    assert imported.model.schedule[0].ffn.hidden == 48  # type: ignore[union-attr]


def test_one_door_for_both(config: Any) -> None:
    path = config(small())
    assert archc.importers.load(path, model="other", set={"layers": 5}).name == "other"
    assert [m.name for m in archc.importers.load_all(path)] == ["tiny_1_5"]
    assert archc.importers.load("llama_3_1_8b", set={"layers": 5}).layers == 5
    assert [m.name for m in archc.importers.load_all("llama_3_1_8b")] == ["llama_3_1_8b"]
    sink = Sink()
    with pytest.raises(ArchError):
        archc.importers.load(config(small(hidden_act="mish")), sink=sink)
    assert [d.code for d in sink.items] == ["E0605"]


@pytest.mark.parametrize("command", ["check", "cost", "plan", "build"])
def test_commands_take_configs(command: str, config: Any, tmp_path: Path) -> None:
    path = str(config(small(pretraining_tp=2)))
    where = ["-o", str(tmp_path / "build")] if command == "build" else []
    result = CliRunner().invoke(main, [command, path, "--set", "layers=4", *where])
    assert result.exit_code == 0, result.output
    broken = CliRunner().invoke(main, [command, str(config(small(hidden_act="mish"))), *where])
    assert broken.exit_code == 1
    assert "E0605" in broken.stdout


def test_a_config_costs_what_its_spec_costs(config: Any) -> None:
    direct = CliRunner().invoke(main, ["cost", str(config(LLAMA_3_1["llama_3_1_8b"])), "--format", "json"])
    library = CliRunner().invoke(main, ["cost", "llama_3_1_8b", "--format", "json"])
    ours, theirs = json.loads(direct.stdout), json.loads(library.stdout)
    assert ours.pop("model") == "tiny_1_5"
    assert theirs.pop("model") == "llama_3_1_8b"
    assert ours == theirs


def test_nothing_heavy_is_imported(config: Any) -> None:
    code = (
        "import sys; from archc.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print([m for m in ('torch', 'transformers', 'triton', 'networkx', 'jinja2', 'rich') if m in sys.modules])"
    )
    arguments = [sys.executable, "-c", code, "import", str(config(small()))]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
