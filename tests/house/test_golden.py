"""The golden files' fixture: compares, shows a diff, writes on request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
TESTS = """
import os

def test_words(golden):
    golden("sub/text.txt", os.environ["TEXT"])

def test_other():
    assert "TEXT" not in os.environ
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text(CONFTEST.read_text())
    (tests / "test_file.py").write_text(TESTS)
    return tmp_path


def run(project: Path, text: str, *options: str) -> tuple[int, str]:
    """Exit code and output of pytest in the project, whose golden test has this text."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", *options],
        cwd=project,
        env={**os.environ, "TEXT": text},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_golden_files(project: Path) -> None:
    code, output = run(project, "one\ntwo\n", "-k", "words")
    assert code == 1
    assert "does not exist" in output

    code, output = run(project, "one\ntwo\n", "--update-golden")
    assert code == 0
    assert "1 passed, 1 deselected" in output
    assert (project / "tests/golden/sub/text.txt").read_text() == "one\ntwo\n"

    assert run(project, "one\ntwo\n", "-k", "words")[0] == 0
    code, output = run(project, "one\n2\n", "-k", "words")
    assert code == 1
    assert "-two\n+2\n" in output
    assert (project / "tests/golden/sub/text.txt").read_text() == "one\ntwo\n"
