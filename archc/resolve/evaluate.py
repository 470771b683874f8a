"""The values of expressions: numbers, strings, truth values, lists. Drawers are the business of `recipes`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from archc.diagnostics import Diagnostic, Span
from archc.resolve.convert import Word, shown
from archc.resolve.scope import FAILED, Scope
from archc.schema.describe import FieldInfo
from archc.syntax import tree

if TYPE_CHECKING:
    from archc.resolve.resolution import Resolution

MAX_ITEMS = 10_000
"""The most values that a range in a list may stand for."""

BOUND = 10**30
"""Whole numbers beyond this are an overflow: no quantity of a model is as large."""

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Cost = Callable[[tree.Ref | tree.Call], Any]
"""Gives the value of a `cost.` reference; FAILED when there is none."""


class Evaluator:
    """Evaluates expressions within one resolution. ``cost`` is given where `cost.` may be asked (in checks)."""

    __slots__ = ("compared", "cost", "r")

    def __init__(self, r: Resolution, cost: Cost | None = None) -> None:
        self.r = r
        self.cost = cost
        self.compared: list[tuple[tree.Binary, Any, Any, bool]] = []
        """Every comparison made, with the values of its sides and its outcome (for failing checks)."""

    def value(self, expr: tree.Expr, scope: Scope, info: FieldInfo | None = None) -> Any:
        """The value of ``expr``, or FAILED when an error has been reported. ``info`` is the field it is for: its words
        are looked up first.
        """
        match expr:
            case tree.Number():
                return expr.value
            case tree.String() | tree.Constant():
                return expr.value
            case tree.Ref():
                if info is not None and len(expr.parts) == 1 and expr.parts[0].text in info.words:
                    return expr.parts[0].text
                if self.cost is not None and expr.parts[0].text == "cost":
                    return self.cost(expr)
                return self.r.read(expr, scope, info)
            case tree.List():
                return self._list(expr, scope, info)
            case tree.Unary():
                return self._unary(expr, scope)
            case tree.Binary():
                return self._binary(expr, scope)
            case tree.Call():
                return self._call(expr)
            case tree.Amend():
                return self._error("E0202", f"{_for(info)}a value is needed here, not a drawer", expr.span)
            case tree.Range():
                return self._error(
                    "E0202", f"{_for(info)}a range stands in a list or behind `in` and `at`, not here", expr.span
                )
            case tree.Group() | tree.Placed():
                return self._error("E0202", f"{_for(info)}this form belongs to a schedule", expr.span)

    def _list(self, expr: tree.List, scope: Scope, info: FieldInfo | None) -> Any:
        items: list[Any] = []
        for item in expr.items:
            if isinstance(item, tree.Range):
                found = self.range(item, scope)
                if found is not FAILED and len(found) > MAX_ITEMS:
                    found = self._error(
                        "E0209", f"the range has {len(found):_} values, more than {MAX_ITEMS:_}", item.span
                    )
                items.extend(found if found is not FAILED else [FAILED])
            else:
                items.append(self.value(item, scope, info.item if info else None))
        return FAILED if any(v is FAILED for v in items) else items

    def range(self, expr: tree.Range, scope: Scope, *, last: int | None = None) -> Any:
        """The numbers of a range (a Python range), both ends included; an open end needs ``last``."""
        start = self.whole(expr.start, scope)
        step = self.whole(expr.step, scope) if expr.step is not None else 1
        if expr.stop is not None:
            stop = self.whole(expr.stop, scope)
        elif last is None:
            return self._error("E0202", "an open range has no end here", expr.span, "write `start..stop`")
        else:
            stop = last if start is FAILED else max(last, start)
        if start is FAILED or stop is FAILED or step is FAILED:
            return FAILED
        if step < 1:
            return self._error(
                "E0202", f"the step of a range is at least 1, not {shown(step)}", (expr.step or expr).span
            )
        if stop < start:
            return self._error(
                "E0202",
                f"the range {shown(start)}..{shown(stop)} is empty",
                expr.span,
                "a range runs from its lower to its upper end",
            )
        return range(start, stop + 1, step)

    def whole(self, expr: tree.Expr, scope: Scope) -> Any:
        """The value of ``expr`` as an int; an error for anything else."""
        value = self.value(expr, scope)
        if value is FAILED:
            return FAILED
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or (isinstance(value, float) and not value.is_integer())
        ):
            return self._error("E0202", f"a whole number is needed here, not {shown(value)}", expr.span)
        return int(value)

    def _unary(self, expr: tree.Unary, scope: Scope) -> Any:
        signs: list[tree.Unary] = []
        operand: tree.Expr = expr
        while isinstance(operand, tree.Unary):
            signs.append(operand)
            operand = operand.operand
        value = self.value(operand, scope)
        for sign in reversed(signs):
            if value is FAILED:
                return FAILED
            if sign.op == "not":
                value = (
                    not value
                    if isinstance(value, bool)
                    else self._error("E0207", f"`not` needs `true` or `false`, not {shown(value)}", sign.span)
                )
            elif isinstance(value, bool) or not isinstance(value, (int, float)):
                value = self._error("E0207", f"`{sign.op}` needs a number, not {shown(value)}", sign.span)
            else:
                value = -value if sign.op == "-" else value
        return value

    def _binary(self, expr: tree.Binary, scope: Scope) -> Any:
        # a long sum is a deep tree: walk its left spine instead of recursing
        spine: list[tree.Binary] = []
        first: tree.Expr = expr
        while isinstance(first, tree.Binary):
            spine.append(first)
            first = first.left
        value = self.value(first, scope)
        for node in reversed(spine):
            right = self.value(node.right, scope)
            value = FAILED if value is FAILED or right is FAILED else self._operate(node, value, right)
        return value

    def _operate(self, node: tree.Binary, a: Any, b: Any) -> Any:
        op = node.op
        if op in ("and", "or"):
            for side, value in ((node.left, a), (node.right, b)):
                if not isinstance(value, bool):
                    return self._error(
                        "E0207", f"`{op}` needs `true` or `false` on both sides, not {shown(value)}", side.span
                    )
            return (a and b) if op == "and" else (a or b)
        if op in ("==", "!="):
            if not _alike(a, b):
                return self._error("E0207", f"{shown(a)} and {shown(b)} cannot be compared", node.span)
            result = (a == b) == (op == "==")
            self.compared.append((node, a, b, result))
            return result
        for side, value in ((node.left, a), (node.right, b)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return self._error("E0207", f"`{op}` needs numbers on both sides, not {shown(value)}", side.span)
        if op in _ORDER:
            result = _ORDER[op](a, b)
            self.compared.append((node, a, b, result))
            return result
        if op in ("/", "//", "%") and b == 0:
            return self._error("E0208", f"division by zero: `{_brief(node.right)}` is 0", node.span)
        try:
            value = _ARITHMETIC[op](a, b)
        except OverflowError:
            value = math.inf
        if (isinstance(value, float) and not math.isfinite(value)) or (abs(value) > BOUND and isinstance(value, int)):
            return self._error("E0209", f"the result of `{op}` is too large", node.span)
        return value

    def _call(self, expr: tree.Call) -> Any:
        if expr.ref.parts[0].text == "cost" and self.cost is not None:
            return self.cost(expr)
        if expr.ref.parts[0].text == "cost":
            return self._error(
                "E0504", "costs are known only after the model: `cost.` may be asked in a `check`", expr.span
            )
        return self._error(
            "E0212",
            f"there is no function `{expr.ref.text}`: the language has none",
            expr.ref.span,
            "arithmetic is `+ - * / // %`",
        )

    def _error(self, code: str, message: str, span: Span, help: str | None = None) -> Any:
        self.r.sink.add(Diagnostic(code=code, message=message, span=span, help=help))
        return FAILED


def _alike(a: Any, b: Any) -> bool:
    def group(v: Any) -> str:
        if isinstance(v, bool):
            return "bool"
        if isinstance(v, (int, float)):
            return "number"
        return "text" if isinstance(v, (str, Word)) else type(v).__name__

    return a is None or b is None or group(a) == group(b)


def _brief(expr: tree.Expr) -> str:
    text = " ".join(expr.span.text.split())
    return text if len(text) <= 40 else text[:37] + "..."


def _for(info: FieldInfo | None) -> str:
    return f"`{info.name}`: " if info is not None else ""
