"""A wheel carries everything that commands need: they give the same as in the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def archc(path: Path, folder: Path, *argv: str) -> str:
    """What a command prints with ``path`` as the only place to find archc."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "archc", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_contents(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} >= {"archc"}
    assert {path.name for path in (installed / "archc" / "_data").iterdir()} == {
        "grammar",
        "kernels",
        "specs",
        "templates",
    }
    assert not list(installed.rglob("__pycache__"))
    for part in ("grammar", "kernels", "specs", "templates"):
        ours = {
            path.relative_to(ROOT / part)
            for path in (ROOT / part).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        theirs = {
            path.relative_to(installed / "archc/_data" / part)
            for path in (installed / "archc/_data" / part).rglob("*")
            if path.is_file()
        }
        assert theirs == ours


def test_extras_and_command(installed: Path) -> None:
    metadata = next(installed.glob("archc_lang-*.dist-info"))
    text = (metadata / "METADATA").read_text()
    assert {line.split(": ")[1] for line in text.splitlines() if line.startswith("Provides-Extra")} == {
        "torch",
        "plot",
        "dev",
    }
    assert "archc = archc.cli:main" in (metadata / "entry_points.txt").read_text()


def test_commands(installed: Path, tmp_path: Path) -> None:
    place = "import archc.resources as r; print(r.specs())"
    env = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", place], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(installed)
    archc(installed, tmp_path, "check", "llama_3_1_8b")
    outputs = []
    for path, name in ((installed, "wheel"), (ROOT, "checkout")):
        cost = archc(path, tmp_path, "cost", "llama_3_1_8b", "--format", "json")
        archc(path, tmp_path, "build", "llama_3_1_8b", "-o", name)
        files = {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        outputs.append((cost, files))
    assert outputs[0] == outputs[1]
