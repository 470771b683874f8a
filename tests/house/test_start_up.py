"""Commands that only read specs run without torch, and import heavy packages only where they use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.start_up import RATIO, RESIDENT

ROOT = Path(__file__).resolve().parents[2]
TORCH = {"torch", "triton", "safetensors", "transformers", "hypothesis", "pytest"}
RUN = """
import json, sys

ABSENT = frozenset({absent!r})
asked = set()

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ABSENT:
            asked.add(top)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Absent)
from archc.cli import main

try:
    main({argv!r}, prog_name="archc")
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
print("\\n" + json.dumps({{"code": code, "asked": sorted(asked), "loaded": loaded}}))
"""
TOY = """arch 1

model toy {
  vocab = 256, dim = 64, layers = 2, context = 1Ki
  norm = rms { eps = 1e-5 }
  attention = gqa { heads = 4 }
  ffn = swiglu { hidden = 128 }
  check cost.params.total < 1M
}
"""
# What a command may load beyond the dependencies that every spec needs (click, lark, pydantic)
COMMANDS = {
    "--version": set(),
    "check llama_3_1_8b": set(),
    "check toy.arch": set(),
    "cost llama_3_1_8b": set(),
    "cost llama_3_1_8b --format json": set(),
    "diff llama_3_1_8b olmoe_1b_7b": {"rich"},
    "diff llama_3_1_8b olmoe_1b_7b --format json": set(),
    "report llama_3_1_8b olmoe_1b_7b": {"jinja2"},
    "build llama_3_1_8b": {"jinja2"},
    "build toy.arch --tiny": {"jinja2"},
    "plan llama_3_1_8b": {"rich"},
    "fmt --check toy.arch": set(),
    "explain E0001": set(),
}
LAZY = {"jinja2", "networkx", "rich", "numpy"}


def run(argv: list[str], folder: Path, absent: set[str]) -> dict:
    """Exit code, absent packages that were asked for, and packages loaded by an archc process."""
    (folder / "toy.arch").write_text(TOY, encoding="utf-8")
    code = RUN.format(absent=sorted(absent), argv=argv)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """The process environment with this checkout first on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("command", COMMANDS)
def test_runs_without_torch(command: str, tmp_path: Path) -> None:
    result = run(command.split(), tmp_path, TORCH)
    # A spec in the library is clean, and so is the toy in everything but its layout
    assert result["code"] == (1 if command.startswith("fmt") else 0)
    assert result["asked"] == [], "an import that fails softly still costs start-up time where torch is installed"
    assert LAZY & set(result["loaded"]) <= COMMANDS[command]


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="processor times of children need POSIX")
def test_a_cost_takes_no_more_than_twice_and_a_half_the_imports(tmp_path: Path) -> None:
    """A tenth is left for noise. Measured by a process of its own: what it measures inherits its size."""
    measure = f"json.dumps(against_imports(9, {str(tmp_path)!r}))"
    code = f"import json; from bench.start_up import against_imports; print({measure})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["ratio"] <= 1.1 * RATIO, found
    assert 10 < found["resident"] < RESIDENT, found


def test_the_hook_sees_torch(tmp_path: Path) -> None:
    """The check itself: what asks for torch is found out."""
    code = RUN.format(absent=["torch"], argv=["--version"]).replace(
        "from archc.cli import main", "import archc.cli\nmain = __import__('torch')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "No module named 'torch'" in done.stderr
