"""The cost of every variant of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from archc.cost.parts import Parts
from archc.cost.report import Report
from archc.diagnostics import ArchError, Diagnostic
from archc.record import dataclass
from archc.resolve import run_checks
from archc.resolve.family import Family
from archc.schema import Model

DEEP = ("memory", "time")
"""Sections of a report that need the graph of the whole model."""

Whole = Callable[[Model], Report]
"""The report of a model that is planned as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant: the values of its params, its cost, and what is wrong with it.

    ``report`` is None where it does not resolve or cannot be planned; a variant that fails a check has both.
    """

    values: Mapping[str, Any]
    report: Report | None
    findings: tuple[Diagnostic, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether it can be built and keeps its checks."""
        return self.report is not None and not self.findings


def variants(
    family: Family, values: Mapping[str, Sequence[Any]], workload: Mapping[str, Any], whole: Whole | None = None
) -> Iterator[Variant]:
    """Every combination of the values, the last param changing fastest, under a workload (keywords of `count`).

    With ``whole`` reports are what it makes of a model; else they have no memory and no time. Raises ValueError for a
    workload that cannot be.
    """
    parts = Parts()
    for combination in itertools.product(*values.values()):
        yield of(family, parts, dict(zip(values, combination, strict=True)), workload, whole)


def of(
    family: Family, parts: Parts, values: Mapping[str, Any], workload: Mapping[str, Any], whole: Whole | None = None
) -> Variant:
    """One variant; ``parts`` are those of its family."""
    try:
        model = family.variant(values)
        report = parts.report(model, **workload) if whole is None else whole(model)
        return Variant(values=values, report=report, findings=run_checks(model, lookup(model, parts)))
    except ArchError as error:
        return Variant(values=values, report=None, findings=error.diagnostics)


def lookup(model: Model, parts: Parts) -> Callable[[str, Mapping[str, Any]], Any]:
    """What `check` statements read, counted by parts as far as that goes."""

    def value(key: str, keywords: Mapping[str, Any]) -> Any:
        if key.partition(".")[0] in DEEP:
            from archc.cost.count import count
            from archc.plan import plan

            return count(model, plan(model, names=keywords.get("mode") == "train"), **dict(keywords)).value(key)
        return parts.report(model, **dict(keywords)).value(key)

    return value


def front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other is better than: nowhere worse and somewhere smaller. Every coordinate is to be small."""
    rows = [tuple(p) for p in points]
    return [not any(o != p and all(b <= a for a, b in zip(p, o, strict=True)) for o in rows) for p in rows]
