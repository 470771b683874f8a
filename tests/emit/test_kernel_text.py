"""What a person reads in the files of functions: names, lines, lengths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import archc
from archc.api import package
from archc.plan.shrink import shrink

MODELS = ["deepseek_v4_flash", "deepseek_v3", "qwen3_235b_a22b", "engram_27b"]
Files = dict[str, str]

GENERIC = re.compile(r"\b(product|added|sum|total|pad|row_max)_?\d+(_\d+)*\b")
"""Names that tell a rule and a number, and not what a value is."""


@pytest.fixture(scope="module", params=MODELS)
def files(request: pytest.FixtureRequest) -> Files:
    """The texts of the functions of a small model, by file."""
    made = package(shrink(archc.load(request.param)), fuse="layers")
    return {n: text for n, text in made.items() if n.startswith("fused/") and Path(n).suffix in (".py", ".cpp")}


def names(text: str) -> set[str]:
    code = "\n".join(line.split("//")[0] for line in text.splitlines())
    return set(re.findall(r"\b[A-Za-z_]\w*", code))


def test_values_are_called_by_what_they_are(files: Files) -> None:
    """A number may stand for a place among streams; what a value is, its name says."""
    found = {n: sorted(name for name in names(text) if GENERIC.fullmatch(name)) for n, text in files.items()}
    assert not {n: some for n, some in found.items() if some}


def test_no_line_is_broken_inside_of_an_index(files: Files) -> None:
    texts = [text for name, text in files.items() if name.endswith(".cpp")]
    assert any(len(line) > 100 for text in texts for line in text.splitlines()), "nothing had to be broken"
    for line in (line for text in texts for line in text.splitlines()):
        if not line.lstrip().startswith("//"):
            assert line.count("[") == line.count("]"), line


def test_lines_fit(files: Files) -> None:
    assert not [line for text in files.values() for line in text.splitlines() if len(line) > 120]
