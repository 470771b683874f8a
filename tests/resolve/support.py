"""Small specs and the toy drawers that the tests of resolve share."""

from __future__ import annotations

from pathlib import Path

from archc.diagnostics import Diagnostic
from archc.resolve import check_text, load_text
from archc.schema import Model

TOYS = Path(__file__).parent / "drawers"

FIELDS = "vocab = 1000, dim = 64, layers = 6, context = 1Ki\n"
GQA = "attention = gqa { heads = 4 }\n"
FFN = "ffn = swiglu { hidden = 256 }\n"


def spec(body: str, *, before: str = "", after: str = "") -> str:
    """The text of a file with one model around ``body``."""
    return f"arch 1\n{before}\nmodel m {{\n{FIELDS}{body}\n}}\n{after}"


def one(text: str) -> Model:
    """The last model of a text that has no errors."""
    return load_text(text, drawers=[TOYS])[-1]


def found(text: str) -> tuple[Diagnostic, ...]:
    """The diagnostics of a text."""
    return check_text(text, drawers=[TOYS])


def only(text: str) -> Diagnostic:
    """The one diagnostic of a text."""
    diagnostics = found(text)
    assert len(diagnostics) == 1, diagnostics
    return diagnostics[0]
