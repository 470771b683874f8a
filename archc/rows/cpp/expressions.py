"""Expressions of C++ as text: indices, literals, functions of a number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from archc.rows.rules import Pointwise
from archc.rows.value import Streams


def summed(*terms: str) -> str:
    """A sum as text, numbers in it added up."""
    parts = [p for term in terms for p in term.split(" + ") if p]
    known = sum(int(p) for p in parts if p.isdigit())
    named = [p for p in parts if not p.isdigit()]
    return " + ".join(named + [str(known)] * bool(known or not named))


def scaled(factor: int, index: str) -> str:
    """A product as text."""
    if index.isdigit():
        return str(factor * int(index))
    return index if factor == 1 else f"{factor} * {index}" if " " not in index else f"{factor} * ({index})"


def flat(streams: Streams, index: Sequence[str]) -> str:
    """Where a place of streams is if they lie in a line."""
    terms = [scaled(math.prod(streams[at + 1 :]), i) for at, i in enumerate(index)]
    return summed(*terms) if terms else "0"


def number(x: float) -> str:
    """A literal."""
    if math.isinf(x):
        return "INFINITY" if x > 0 else "-INFINITY"
    text = f"{x!r}f" if any(c in repr(x) for c in ".e") else f"{x!r}.0f"
    return text


def pointwise(rule: Pointwise, x: str) -> str:
    """A function of a number."""
    options = {k: number(v) if isinstance(v, float | int) else v for k, v in rule.__dict__.items()}
    return rule.cpp.replace("({x})", f"({x})").format(x=closed(x), **options)


def closed(text: str) -> str:
    """An expression as it stands in a product."""
    simple = re.fullmatch(r"[\w.]+(e-\d+f)?(\[[^\]]*\])*", text) or (
        re.fullmatch(r"\w+\(.*\)", text) and _balanced(text[text.index("(") + 1 : -1])
    )
    return text if simple else f"({text})"


def _balanced(text: str) -> bool:
    depth = 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if depth < 0:
            return False
    return depth == 0
