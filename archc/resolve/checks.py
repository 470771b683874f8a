"""`check` statements: those without costs are run when a spec is loaded, the others once costs are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from archc.diagnostics import Diagnostic, Sink, Span
from archc.record import dataclass
from archc.resolve.convert import Word, shown
from archc.resolve.evaluate import Evaluator
from archc.resolve.resolution import Resolution
from archc.resolve.scope import FAILED, Failed, Scope
from archc.resolve.suggest import did_you_mean, listed
from archc.schema import Model
from archc.syntax import tree

WORKLOAD = {
    "mode": "a word: train, prefill or decode",
    "batch": "a whole number",
    "seq": "a whole number",
    "context": "a whole number",
    "hardware": "a kind of hardware, or one that the spec declares",
    "gpus": "a whole number",
    "parallel": 'a plan in quotes: "fsdp=8,tp=2"',
    "recompute": "a word: none, selective, full or mhc",
}
"""The keywords that a cost in a check may take."""
WORDS = {"mode": ("train", "prefill", "decode"), "recompute": ("none", "selective", "full", "mhc")}
"""Those that are one of some words."""
NAMES = ("hardware", "parallel")
"""Those that are a word or text, which whoever knows the costs understands."""

CostOf = Callable[[str, dict[str, Any]], Any]
"""The value under a key of the cost report for a workload. Raises KeyError with the known keys among its arguments,
ValueError for a bad workload.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A `check` in force, with what is needed to evaluate it."""

    statement: tree.Check
    scope: Scope
    resolution: Resolution

    @property
    def text(self) -> str:
        """The condition as written, on one line."""
        return " ".join(self.statement.condition.span.text.split())

    @property
    def needs_cost(self) -> bool:
        """Whether the condition asks for a cost."""
        return any(_is_cost(e) for e in _parts(self.statement.condition))


def run_checks(model: Model, cost: CostOf) -> tuple[Diagnostic, ...]:
    """The diagnostics of all checks of a model that ask for costs: failures, unknown keys, bad workloads."""
    sink = Sink()
    for check in model.checks:
        if check.needs_cost:
            _run(check, sink, cost)
    return sink.in_order()


def check_now(check: Check, sink: Sink) -> None:
    """Runs a check that asks for no cost; of one that does, only its names and workload are looked at."""
    _run(check, sink, None)


def _run(check: Check, sink: Sink, cost: CostOf | None) -> None:
    r = check.resolution
    kept, r.sink = r.sink, sink
    try:
        asked = Costs(r, check.scope, cost)
        evaluator = Evaluator(r, asked.value)
        asked.evaluator = evaluator
        condition = check.statement.condition
        result = evaluator.value(condition, check.scope)
        if result is FAILED:
            return
        if not isinstance(result, bool):
            help = "compare it: `check a <= b`"
            sink.add(
                Diagnostic(
                    code="E0502",
                    message=f"a check is `true` or `false`, this is {shown(result)}",
                    span=condition.span,
                    help=help,
                )
            )
        elif not result:
            sink.add(_failure(check, evaluator))
    finally:
        r.sink = kept


def _failure(check: Check, evaluator: Evaluator) -> Diagnostic:
    why = check.statement.why.value if check.statement.why else ""
    message = f"{why} (`{check.text}`)" if why else f"`{check.text}` does not hold"
    sides = [
        f"{_side(node.left)} = {shown(a)}"
        + (
            f", {_side(node.right)} = {shown(b)}"
            if not isinstance(node.right, tree.Number)
            else f", not {node.op} {shown(b)}"
        )
        for node, a, b, held in evaluator.compared
        if not held
    ]
    return Diagnostic(
        code="E0501",
        message=message,
        span=check.statement.condition.span,
        context=check.statement.span,
        help="; ".join(sides) or None,
    )


def _side(expr: tree.Expr) -> str:
    return f"`{' '.join(expr.span.text.split())}`"


class Costs:
    """Evaluates `cost.` references. Without a report (at load) their values fail in silence, so that only names and
    workloads are checked.
    """

    def __init__(self, r: Resolution, scope: Scope, cost: CostOf | None) -> None:
        self.r, self.scope, self.cost = r, scope, cost
        self.evaluator: Evaluator | None = None

    def value(self, expr: tree.Ref | tree.Call) -> Any:
        """The value of a cost, FAILED when there is none."""
        ref = expr.ref if isinstance(expr, tree.Call) else expr
        workload: dict[str, Any] | Failed = self._workload(expr) if isinstance(expr, tree.Call) else {}
        if len(ref.parts) < 2:
            return self._error("E0503", "`cost` alone is no number", ref.span, "for example `cost.params.total`")
        if isinstance(workload, Failed) or self.cost is None:
            return FAILED
        key = ".".join(p.text for p in ref.parts[1:])
        span = ref.parts[1].span.to(ref.parts[-1].span)
        try:
            found = self.cost(key, workload)
        except KeyError as error:
            known = sorted(
                {
                    k
                    for a in error.args
                    for k in ([a] if isinstance(a, str) else a if isinstance(a, Iterable) else [])
                    if k != key
                }
            )
            return self._error(
                "E0503",
                f"there is no cost `{key}`",
                span,
                did_you_mean(key, known) or (f"keys: {listed(known)}" if known else None),
            )
        except ValueError as error:
            return self._error("E0505", str(error), expr.span)
        if found is None:
            return self._error("E0503", f"`cost.{key}` has no value for this workload", span)
        if isinstance(found, dict):
            return self._error(
                "E0503", f"`cost.{key}` is a group, not a number", span, f"its keys: {listed(map(str, found))}"
            )
        return found

    def _workload(self, call: tree.Call) -> dict[str, Any] | Failed:
        found: dict[str, Any] | Failed = {}
        for arg in call.args:
            found = self._error("E0505", "a workload is given by keywords", arg.span, f"keywords: {listed(WORKLOAD)}")
        for keyword in call.keywords:
            name = keyword.name.text
            value: Any
            if name not in WORKLOAD:
                value = self._error(
                    "E0505",
                    f"a workload has no `{name}`",
                    keyword.name.span,
                    did_you_mean(name, WORKLOAD) or f"keywords: {listed(WORKLOAD)}",
                )
            elif name in WORDS:
                value = self._word(name, keyword.value)
            elif name in NAMES:
                value = self._name(name, keyword.value)
            else:
                assert self.evaluator is not None
                value = self.evaluator.whole(keyword.value, self.scope)
                if value is not FAILED and value < 1:
                    value = self._error("E0505", f"`{name}` is at least 1, not {shown(value)}", keyword.value.span)
            if value is FAILED:
                found = FAILED
            elif not isinstance(found, Failed):
                found[name] = value
        return found

    def _word(self, name: str, expr: tree.Expr) -> Any:
        text, known = _text(expr), WORDS[name]
        if text in known:
            return text
        written = text or " ".join(expr.span.text.split())
        return self._error(
            "E0505",
            f"`{name}` is {listed(known, word='or')}, not `{written}`",
            expr.span,
            did_you_mean(written, known),
        )

    def _name(self, name: str, expr: tree.Expr) -> Any:
        text = _text(expr)
        if text:
            return text
        written = " ".join(expr.span.text.split())
        return self._error("E0505", f"`{name}` is {WORKLOAD[name]}, not `{written}`", expr.span)

    def _error(self, code: str, message: str, span: Span, help: str | None = None) -> Failed:
        return self.r.error(code, message, span, help)


def _text(expr: tree.Expr) -> str | None:
    """What a bare word or a string says."""
    return expr.text if isinstance(expr, tree.Ref) else expr.value if isinstance(expr, tree.String) else None


def _is_cost(expr: tree.Expr) -> bool:
    ref = expr.ref if isinstance(expr, tree.Call) else expr
    return isinstance(ref, tree.Ref) and ref.parts[0].text == "cost"


def _parts(expr: tree.Expr) -> Iterator[tree.Expr]:
    """An expression and everything in it (bodies of drawers apart)."""
    stack: list[tree.Expr] = [expr]
    while stack:
        e = stack.pop()
        yield e
        match e:
            case tree.Unary(operand=operand):
                stack.append(operand)
            case tree.Binary(left=left, right=right):
                stack += (left, right)
            case tree.List(items=items) | tree.Group(items=items):
                stack += items
            case tree.Call(args=args, keywords=keywords):
                stack += (*args, *(k.value for k in keywords))
            case tree.Range(start=start, stop=stop, step=step):
                stack += (e for e in (start, stop, step) if e is not None)
            case tree.Placed(item=item, where=where):
                stack += (item, where)


def in_words(value: Any) -> Any:
    """A value as the Python API gives it: a bare name becomes a string, a list a tuple."""
    if isinstance(value, Word):
        return value.text
    return tuple(map(in_words, value)) if isinstance(value, list) else value
