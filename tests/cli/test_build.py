"""`archc build` where it cannot write: a plain message, exit code 2, and nothing touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archc.cli import main

SPEC = """
arch 1
model small {
  vocab = 100, dim = 32, layers = 1, context = 64, head = tied
  attention = gqa { heads = 2 }
  ffn = swiglu { hidden = 32 }
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "small.arch"
    path.write_text(SPEC)
    return str(path)


def build(*words: str) -> Result:
    return CliRunner().invoke(main, ["build", *words])


def test_a_target_that_is_no_folder(spec: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "deeper"):
        result = build(spec, "-o", str(target))
        assert result.exit_code == 2
        assert f"cannot write {target / 'small'}: " in result.output
        assert "internal error" not in result.output
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_someone_else(spec: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "small").mkdir(parents=True)
    (tmp_path / "out" / "small" / "thesis.txt").write_text("precious")
    result = build(spec, "-o", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "is not a package that archc wrote" in result.output
    assert [p.name for p in (tmp_path / "out" / "small").iterdir()] == ["thesis.txt"]


def test_any_folder_name_will_do(spec: str, tmp_path: Path) -> None:
    out = tmp_path / "one two" / "üñ"
    assert build(spec, "-o", str(out)).exit_code == 0
    assert (out / "small" / "model.py").is_file()
    assert build(spec, "-o", str(out), "--check").exit_code == 0
