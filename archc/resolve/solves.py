"""`solve PARAM for LEFT == RIGHT` in a sweep: what is searched, and whether what was found holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archc.diagnostics import Diagnostic, Sink, Span
from archc.record import dataclass
from archc.resolve.checks import CostOf, Costs
from archc.resolve.convert import shown
from archc.resolve.domains import Interval, domain
from archc.resolve.evaluate import Evaluator
from archc.resolve.resolution import Resolution
from archc.resolve.scope import FAILED, Named, Scope
from archc.schema import Model
from archc.syntax import tree

TOLERANCE = 0.01
"""How far the sides may differ, as a share of the right one, where a spec does not say `within`."""

MOST = 10**15
"""The most values of a domain that is searched."""


@dataclass(frozen=True, slots=True, eq=False)
class Solve:
    """A `solve` in force. ``values`` are those that its param may take: in order, or all of an interval."""

    statement: tree.Solve
    equation: tree.Binary
    scope: Scope
    resolution: Resolution
    values: Sequence[int | float] | Interval
    tolerance: float

    @property
    def param(self) -> str:
        """The param that is solved for."""
        return self.statement.param.text

    @property
    def text(self) -> str:
        """The equation as written, on one line."""
        return _text(self.equation)

    @property
    def cost(self) -> str:
        """The key of the cost on one of its sides, "" where neither is a cost alone: the residual has its unit."""
        for side in (self.equation.left, self.equation.right):
            ref = side.ref if isinstance(side, tree.Call) else side
            if isinstance(ref, tree.Ref) and ref.parts[0].text == "cost":
                return ".".join(part.text for part in ref.parts[1:])
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The sides of a `solve` at the value that was found."""

    solve: Solve
    left: float
    right: float

    @property
    def residual(self) -> float:
        """Left minus right."""
        return self.left - self.right

    @property
    def relative(self) -> float:
        """The residual as a share of the right side; of the left one where the right is 0."""
        return self.residual / abs(self.right or self.left) if self.residual else 0.0

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.relative) <= self.solve.tolerance

    def _wider(self, value: float) -> str:
        values = self.solve.values
        ends = (values.low, values.high) if isinstance(values, Interval) else (values[0], values[-1])
        return f"widen the domain of `{self.solve.param}`, or " if value in ends else ""

    def missed(self, value: float) -> Diagnostic:
        """What is wrong where it does not hold; ``value`` is that of the param."""
        left, right = _text(self.solve.equation.left), _text(self.solve.equation.right)
        said = "" if isinstance(self.solve.equation.right, tree.Number) else f" = {shown(self.right)}"
        return Diagnostic(
            code="E0508",
            message=f"`{self.solve.param} = {shown(value)}` comes closest, but `{left}` = {shown(self.left)} is "
            f"{100 * abs(self.relative):.3g} % {'above' if self.residual > 0 else 'below'} `{right}`{said}, more than "
            f"{100 * self.solve.tolerance:g} %",
            span=self.solve.equation.span,
            context=self.solve.statement.span,
            help=f"{self._wider(value)}allow more: `within 0.05` is 5 %",
        )


def solve_of(r: Resolution, statement: tree.Solve, named: Named, scope: Scope) -> Solve | None:
    """What a statement asks to solve for the param ``named``, None after an error."""
    equation = statement.equation
    if not (isinstance(equation, tree.Binary) and equation.op == "=="):
        help = "write `solve PARAM for LEFT == RIGHT`"
        r.error("E0506", f"`{_text(equation)}` is no equation to solve", equation.span, help)
        return None
    values = _values(r, named, statement.param.span)
    tolerance = TOLERANCE if statement.tolerance is None else r.evaluator.value(statement.tolerance, scope)
    if statement.tolerance is not None and tolerance is not FAILED and not _share(tolerance):
        help = "`within 0.005` is half a percent of the right side"
        span = statement.tolerance.span
        r.error("E0506", f"a tolerance is a share from 0 up to 1, not {shown(tolerance)}", span, help)
        tolerance = FAILED
    if values is None or tolerance is FAILED:
        return None
    solve = Solve(statement, equation, scope, r, values, tolerance)
    sides(solve, r.sink, None)
    return solve


def sides(solve: Solve, sink: Sink, cost: CostOf | None, r: Resolution | None = None) -> Solved | None:
    """Both sides in the model it stands in, or in the resolution of a variant; None after an error.

    Without ``cost`` only names and workloads are looked at.
    """
    r = r or solve.resolution
    kept, r.sink = r.sink, sink
    try:
        asked = Costs(r, solve.scope, cost)
        evaluator = asked.evaluator = Evaluator(r, asked.value)
        found: list[Any] = []
        for side in (solve.equation.left, solve.equation.right):
            value = evaluator.value(side, solve.scope)
            if value is not FAILED and not _number(value):
                value = r.error("E0207", f"`solve` needs numbers on both sides, not {shown(value)}", side.span)
            found.append(value)
        left, right = found
        return None if left is FAILED or right is FAILED else Solved(solve=solve, left=left, right=right)
    finally:
        r.sink = kept


def check_solves(model: Model, cost: CostOf) -> tuple[Diagnostic, ...]:
    """What is wrong with the equations of a model's sweeps, costs included. Nothing is solved."""
    sink = Sink()
    for sweep in model.sweeps:
        for solve in sweep.solves:
            sides(solve, sink, cost)
    return sink.in_order()


def impossible(solve: Solve, why: Diagnostic | None) -> Diagnostic:
    """What is wrong where no value of the domain gives a model; ``why`` is what is wrong with one of them."""
    reason = "" if why is None else f"; the first says: {why.message}"
    return Diagnostic(
        code="E0508",
        message=f"no value of `{solve.param}` gives a model{reason}",
        span=solve.statement.param.span,
        context=solve.statement.span,
    )


def _values(r: Resolution, named: Named, span: Span) -> Sequence[int | float] | Interval | None:
    """The numbers in the domain of a param, in order."""
    if named.domain is None:
        help = f"declare it: `param {named.text} = ... in 1..64`"
        r.error("E0507", f"`{named.text}` has no domain to search", span, help)
        return None
    found = domain(r, named.domain)
    if found is FAILED or isinstance(found, Interval):
        return None if found is FAILED else found
    if isinstance(found, range):
        if (found[-1] - found[0]) // found.step >= MOST:
            r.error("E0209", f"the domain of `{named.text}` has more than 10^15 values: too many to search", span)
            return None
        return found
    if odd := [value for value in found if not _number(value)]:
        r.error("E0507", f"`{named.text}` takes {shown(odd[0])}, which is no number: it cannot be solved for", span)
        return None
    return sorted(set(found))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _text(expr: tree.Expr) -> str:
    return " ".join(expr.span.text.split())
