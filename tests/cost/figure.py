"""A figure that somebody has published of a model of the library, and how `archc cost` comes to it."""

from __future__ import annotations

import ast
import math
import operator
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import archc
from archc.cost.report import Report

UNITS = {"": 1, "K": 1e3, "KB": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "G": 1e9, "%": 1e-2, "GiB": 2**30}
"""Factors of published units: thousands as the papers have them; B is a billion parameters, T a trillion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One published figure.

    ``key`` is a key of the report, or arithmetic over keys; ``options`` are those of `archc.cost`, ``sets`` what
    amends the spec. With ``against``, another spec that ``against_sets`` amends, it is what the one has of the other.
    ``rule``: our value must be equal, round to what is published, be it with the further digits cut, or lie within
    ``within`` of it where the published figure cannot be had by a stated convention (``note`` says why).
    """

    spec: str
    what: str
    published: str
    key: str
    source: str
    convention: str = ""
    rule: Literal["equal", "rounds", "cut", "within"] = "rounds"
    within: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    against: str = ""
    against_sets: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def number(self) -> tuple[float, float, int]:
        """The published number, the factor of its unit, and its decimals."""
        digits, unit = re.fullmatch(r"([\d.,]+) ?(\w*|%)", self.published).groups()  # type: ignore[union-attr]
        return float(digits.replace(",", "")), UNITS[unit], len(digits.partition(".")[2])

    @property
    def value(self) -> float:
        """What `archc cost` has to say."""
        value = _arithmetic(self.key, report(self))
        if not self.against:
            return value
        other = _report(self.against, tuple(self.options.items()), tuple(self.against_sets.items()))
        return value / _arithmetic(self.key, other)

    @property
    def deviation(self) -> float:
        """Our value relative to the published one, less one."""
        number, factor, _ = self.number
        return self.value / (number * factor) - 1

    def allows(self, value: float) -> bool:
        """Whether a value keeps the rule."""
        number, factor, decimals = self.number
        if self.rule == "equal":
            return value == number * factor
        if self.rule == "within":
            return abs(value / (number * factor) - 1) <= self.within
        scaled = value / factor * 10**decimals
        return (math.floor(scaled) if self.rule == "cut" else round(scaled)) == round(number * 10**decimals)


@cache
def _report(spec: str, options: tuple[tuple[str, Any], ...], sets: tuple[tuple[str, Any], ...]) -> Report:
    return archc.cost(archc.load(spec, set=dict(sets)), **dict(options))


def report(figure: Figure) -> Report:
    """The report that a figure is read from."""
    return _report(figure.spec, tuple(figure.options.items()), tuple(figure.sets.items()))


OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _arithmetic(text: str, of: Report) -> float:
    """The value of arithmetic over keys of a report."""

    def walk(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int | float)
            return node.value
        return of.value(ast.unparse(node))

    return walk(ast.parse(text, mode="eval").body)
