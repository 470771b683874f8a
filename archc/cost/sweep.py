"""The cost of every variant of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from archc.cost.parts import Parts
from archc.cost.report import Report
from archc.cost.solve import closest
from archc.diagnostics import ArchError, Diagnostic, Sink
from archc.record import dataclass
from archc.resolve import run_checks
from archc.resolve.family import Family
from archc.resolve.solves import Solve, Solved, impossible, sides
from archc.schema import Model

DEEP = ("memory", "time")
"""Sections of a report that need the graph of the whole model."""

Whole = Callable[[Model], Report]
"""The report of a model that is planned as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant: the values of its params, its cost, and what is wrong with it.

    ``report`` is None where it does not resolve or cannot be planned; a variant that fails a check, or misses an
    equation, has both. A param that no value was found for is None.
    """

    values: Mapping[str, Any]
    report: Report | None
    findings: tuple[Diagnostic, ...] = ()
    solved: tuple[Solved, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether it can be built, keeps its checks and what was solved for."""
        return self.report is not None and not self.findings


def variants(
    family: Family,
    values: Mapping[str, Sequence[Any]],
    workload: Mapping[str, Any],
    whole: Whole | None = None,
    solves: Sequence[Solve] = (),
) -> Iterator[Variant]:
    """Every combination of the values, the last param changing fastest, under a workload (keywords of `count`).

    With ``whole`` reports are what it makes of a model; else they have no memory and no time. In each combination
    ``solves`` are solved, one after the other. Raises ValueError for a workload that cannot be.
    """
    parts = Parts()
    for combination in itertools.product(*values.values()):
        given = dict(zip(values, combination, strict=True))
        found, failed = _solve(family, parts, solves, given)
        if failed is None:
            yield of(family, parts, given | found, workload, whole, solves)
        else:
            yield Variant(values=given | {s.param: found.get(s.param) for s in solves}, report=None, findings=(failed,))


def _solve(
    family: Family, parts: Parts, solves: Sequence[Solve], values: Mapping[str, Any]
) -> tuple[dict[str, int | float], Diagnostic | None]:
    """The values of the params that are solved for, and what is wrong where one has none."""
    found: dict[str, int | float] = {}
    for solve in solves:
        wrong: list[Diagnostic] = []

        def residual(value: float, solve: Solve = solve, wrong: list[Diagnostic] = wrong) -> float | None:
            try:
                model = family.variant({**values, **found, solve.param: value})
                sink = Sink()
                both = sides(solve, sink, lookup(model, parts), family.resolution)
            except ArchError as error:
                wrong.extend(error.diagnostics)
                return None
            wrong.extend(sink.in_order())
            return None if both is None else both.residual

        value = closest(solve.values, residual)
        if value is None:
            return found, impossible(solve, next((d for d in wrong if d.severity == "error"), None))
        found[solve.param] = value
    return found, None


def of(
    family: Family,
    parts: Parts,
    values: Mapping[str, Any],
    workload: Mapping[str, Any],
    whole: Whole | None = None,
    solves: Sequence[Solve] = (),
) -> Variant:
    """One variant; ``parts`` are those of its family. Of ``solves`` it is seen whether they hold."""
    try:
        model = family.variant(values)
        report = parts.report(model, **workload) if whole is None else whole(model)
        cost, sink = lookup(model, parts), Sink()
        solved = [both for s in solves if (both := sides(s, sink, cost, family.resolution)) is not None]
        missed = [both.missed(values[both.solve.param]) for both in solved if not both.holds]
        findings = (*run_checks(model, cost), *sink.in_order(), *missed)
        return Variant(values=values, report=report, findings=findings, solved=tuple(solved))
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
