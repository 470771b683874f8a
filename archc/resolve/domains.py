"""The values that a param may take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from archc.record import dataclass
from archc.resolve.convert import shown
from archc.resolve.scope import FAILED, Bound
from archc.syntax import tree

if TYPE_CHECKING:
    from archc.resolve.resolution import Resolution


@dataclass(frozen=True, slots=True)
class Interval:
    """All numbers from ``low`` to ``high``, both included: `0.5..4.0`."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __iter__(self) -> Iterator[float]:
        """None of them: they cannot be listed."""
        return iter(())


def domain(r: Resolution, bound: Bound) -> Any:
    """A Python range, an `Interval` or a list; FAILED after an error."""
    match bound.expr:
        case tree.Range(start=start, stop=stop) if _fraction(start) or _fraction(stop):
            return _interval(r, bound.expr, bound)
        case tree.Range():
            return r.evaluator.range(bound.expr, bound.scope)
        case tree.List(items=items):
            found: list[Any] = []
            for item in items:
                if isinstance(item, tree.Range):
                    values = r.evaluator.range(item, bound.scope)
                    found.append(FAILED) if values is FAILED else found.extend(values[:10_000])
                else:
                    found.append(r.symbol(item, bound.scope))
            return FAILED if any(v is FAILED for v in found) else found
    return r.error("E0202", "a domain is a list or a range: `in [64, 128]`, `in 1..8`", bound.expr.span)


def _fraction(expr: tree.Expr | None) -> bool:
    """Whether a number is written with a fraction: `0.5`, `4.0`, `1e-3`, but not `2.5K`."""
    while isinstance(expr, tree.Unary):
        expr = expr.operand
    if not isinstance(expr, tree.Number) or not isinstance(expr.value, float):
        return False
    return not expr.value.is_integer() or ("." in expr.span.text and not expr.unit)


def _interval(r: Resolution, expr: tree.Range, bound: Bound) -> Any:
    if expr.step is not None:
        return r.error("E0202", "a range of fractions has no step: it holds every number between its ends", expr.span)
    if expr.stop is None:
        return r.error("E0202", "an open range has no end here", expr.span, "write `start..stop`")
    ends = [r.evaluator.value(end, bound.scope) for end in (expr.start, expr.stop)]
    for end, value in zip((expr.start, expr.stop), ends, strict=True):
        if value is not FAILED and (isinstance(value, bool) or not isinstance(value, int | float)):
            return r.error("E0202", f"a number is needed here, not {shown(value)}", end.span)
    if any(value is FAILED for value in ends):
        return FAILED
    low, high = ends
    if low > high:
        help = "a range runs from its lower to its upper end"
        return r.error("E0202", f"the range {shown(low)}..{shown(high)} is empty", expr.span, help)
    return Interval(low, high)
