"""The house rules that no linter knows: sizes and names of files, paths, floors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("archc", "bench", "grammar", "kernels", "specs", "templates", "tests")
CODE = {".py", ".j2", ".lark", ".arch"}
TEXT = CODE | {".md", ".toml", ".json", ".txt", ".txtar", ".yaml", ".yml", ""}
NOT_OURS = {".git", "__pycache__", "golden"}
HARD_LIMIT = 500
# A file with such a name has no job yet
JOBLESS = re.compile(r"(^|_)(utils?|helpers?|misc|common|stuff)(_|$)")


def files(kinds: set[str]) -> list[Path]:
    """Files of the project with one of the suffixes, documents at the top included, generated ones left out."""
    inside = [path for folder in (*FOLDERS, "docs", ".ci") for path in (ROOT / folder).rglob("*")]
    found = [
        path
        for path in (*inside, *ROOT.glob("*"))
        if path.is_file() and path.suffix in kinds and not NOT_OURS & set(path.relative_to(ROOT).parts)
    ]
    return sorted(found)


def test_files_are_found() -> None:
    names = {path.name for path in files(TEXT)}
    assert {"pyproject.toml", "Makefile", "README.md", "gqa.py", "arch.lark", "llama_3_1_8b.arch", "run"} <= names


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): n for path in files(CODE) if (n := len(path.read_text().splitlines())) > HARD_LIMIT
    }
    assert not long


def test_every_file_has_a_job() -> None:
    assert not [str(path.relative_to(ROOT)) for path in files(CODE) if JOBLESS.search(path.stem)]


def test_no_path_of_a_machine() -> None:
    """The project runs anywhere: no file speaks of the machine it was written on."""
    here = re.compile("|".join(["/wor" + "k/", "/ro" + "ot/", "/ho" + "me/", "/Use" + "rs/", r"\.\./sha" + "red"]))
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files(TEXT)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if here.search(line)
    ]
    assert not found


def test_nothing_is_left_to_do() -> None:
    """Open work stands in issues, never in the code."""
    left = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files(CODE)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if left.search(line)
    ]
    assert not found


def test_floors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A file imports only lower floors; nothing in the compiler imports torch (pyproject.toml, `tool.importlinter`)."""
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out
