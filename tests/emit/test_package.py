"""A package on disk: whole or not at all, standing alone, agreeing with itself."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import archc
from archc.api import package
from archc.emit import package as writer


def plan(*files: str) -> str:
    """A `plan.json` of a package with these files."""
    return json.dumps({"archc": "0", "files": ["plan.json", *files]})


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    writer.write({"plan.json": plan("a/b.py"), "a/b.py": "old"}, folder)
    original = Path.write_text

    def failing(self: Path, *args, **kwargs):
        if self.name == "b.py":
            raise OSError("disk full")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(OSError, match="disk full"):
        writer.write({"plan.json": plan("a/b.py"), "a/b.py": "new"}, folder)
    monkeypatch.undo()
    assert (folder / "a" / "b.py").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_new_build_leaves_no_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    writer.write({"plan.json": plan("old.py"), "old.py": ""}, folder)
    writer.write({"plan.json": plan("new.py"), "new.py": ""}, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["new.py", "plan.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a package that archc wrote"):
        writer.write({"plan.json": "{}"}, tmp_path / "m")
    assert (tmp_path / "m" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("foreign", ["{}", "not json", '{"files": []}', "[1]"])
def test_a_plan_json_of_something_else_is_not_ours(tmp_path: Path, foreign: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "plan.json").write_text(foreign)
    with pytest.raises(FileExistsError, match="not a package that archc wrote"):
        writer.write({"plan.json": plan()}, tmp_path / "m")
    assert (tmp_path / "m" / "plan.json").read_text() == foreign


def test_weights_kept_in_a_package_are_not_lost(tmp_path: Path) -> None:
    content = package(archc.load("llama_3_1_8b"))
    folder = writer.write(content, tmp_path / "llama_3_1_8b")
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "model.safetensors").write_text("weeks of training")
    with pytest.raises(FileExistsError, match=r"did not write \(checkpoint/model.safetensors\)"):
        writer.write(content, folder)
    assert (folder / "checkpoint" / "model.safetensors").read_text() == "weeks of training"
    (folder / "checkpoint" / "model.safetensors").unlink()
    (folder / "model.py").write_text("edited")
    writer.write(content, folder)
    assert writer.stale(content, folder) == []


def test_stale_names_what_differs(tmp_path: Path) -> None:
    content = package(archc.load("llama_3_1_8b"))
    folder = writer.write(content, tmp_path / "llama_3_1_8b")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("")
    assert writer.stale(content, folder) == []
    (folder / "model.py").write_text("edited")
    (folder / "extra.py").write_text("")
    (folder / "plan.json").unlink()
    assert writer.stale(content, folder) == ["extra.py", "model.py", "plan.json"]


def test_only_kernels_in_use_are_carried(llama: Path) -> None:
    assert (
        sorted(p.stem for p in (llama / "kernels").glob("[a-z]*.py"))
        == json.loads((llama / "plan.json").read_text())["kernels"]
    )
    assert not (llama / "kernels" / "sinkhorn.py").exists()


def test_plan_json_says_what_the_report_says(llama: Path) -> None:
    facts = json.loads((llama / "plan.json").read_text())
    assert facts["cost"]["decode"] == archc.cost(archc.load("llama_3_1_8b")).as_dict()
    assert sum(math.prod(p["shape"]) for p in facts["parameters"]) == facts["cost"]["train"]["params"]["total"]


def test_a_package_runs_without_archc(llama: Path) -> None:
    """It imports torch and safetensors, nothing of the compiler."""
    program = (
        "import sys; sys.modules['archc'] = None; sys.modules['transformers'] = None\n"
        f"sys.path.insert(0, {str(llama.parent)!r})\n"
        "import llama_3_1_8b, torch\n"
        "from llama_3_1_8b.tests.tiny_model import Model\n"
        "print(Model()(torch.arange(6)[None]).logits.shape)\n"
        "full = llama_3_1_8b.Model(device='meta')\n"
        "print(sum(p.numel() for p in full.parameters()))\n"
    )
    run = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=llama, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:2] == ["torch.Size([1, 6, 512])", "8030261248"]


def test_tiny_builds_stand_where_full_ones_do(tmp_path: Path, imported) -> None:
    folder = archc.build(archc.load("llama_3_1_8b"), tmp_path, tiny=True)
    assert folder == tmp_path / "llama_3_1_8b"
    model = imported(folder).Model()
    assert sum(p.numel() for p in model.parameters()) < 20_000_000
    assert len(model.model.layers) <= 8


def test_compiled_whole_equals_eager(llama: Path, imported) -> None:
    import torch

    imported(llama)
    tiny = import_module("llama_3_1_8b.tests.tiny_model")
    torch.manual_seed(0)
    model = tiny.Model()
    ids = torch.randint(0, 512, (2, 33))
    eager = model(ids, labels=ids)
    compiled = torch.compile(model, fullgraph=True)(ids, labels=ids)
    assert torch.allclose(compiled.logits, eager.logits, atol=2e-5)
    assert torch.allclose(compiled.loss, eager.loss, atol=1e-5)
