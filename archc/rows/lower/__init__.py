"""Chains of the graph's ops as row programs. The rules are the directory listing: a new file is found by itself."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from archc.rows.lower.chain import Lowered, lower
from archc.rows.lower.lowering import REASONS, RULES, Leaf, Lowering, Term, Unfit, pointwise, rule

for _file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    import_module(f"{__name__}.{_file.stem}")

__all__ = ["REASONS", "RULES", "Leaf", "Lowered", "Lowering", "Term", "Unfit", "lower", "pointwise", "rule"]
