"""Warnings: a spec that compiles and yet is probably not what its author meant."""

from __future__ import annotations

from collections.abc import Iterable

from archc.diagnostics import Diagnostic, Sink
from archc.resolve.faults import given_in
from archc.resolve.project import Unit
from archc.resolve.scope import Definition, Named
from archc.resolve.walk import drawers
from archc.schema import Model
from archc.syntax import tree

_UNUSED = {"drawer": "W0001", "let": "W0002", "param": "W0003"}
_WHY = {
    "drawer": "no layer uses it; schedule it, or remove it",
    "let": "nothing reads it",
    "param": "setting it changes nothing",
}
_CONTEXTS = ("context", "original")
"""Fields whose sizes are powers of two by convention."""


def unused(sink: Sink, names: Iterable[Named], scheduled: frozenset[str], unit: Unit) -> None:
    """Reports the drawers, lets and params that this file declares and nothing uses."""
    for named in names:
        if not (named.used or named.text in scheduled) and named.name.span.source is unit.source:
            message = f"the {named.slot + ' ' if named.slot else ''}{named.what} `{named.text}` is never used"
            sink.add(
                Diagnostic(
                    code=_UNUSED[named.what],
                    severity="warning",
                    message=message,
                    span=named.name.span,
                    help=_WHY[named.what],
                )
            )


def doubtful(sink: Sink, model: Model) -> None:
    """Reports what the drawers of a model find doubtful at its context, each drawer once."""
    for drawer in drawers(model):
        for doubt in drawer.doubts(model.context):
            spans = (given_in(drawer, name) for name in doubt.fields)
            span = next((s for s in spans if s is not None), drawer.origin.span)
            sink.add(Diagnostic(code=doubt.code, severity="warning", message=doubt.message, span=span, help=doubt.help))
    _bypassing_nothing(sink, model)


def _bypassing_nothing(sink: Sink, model: Model) -> None:
    """Reports a bypass that no layer stands behind."""
    memory = model.schedule[-1].memory
    if memory is not None and memory.bypass is not None:
        sink.add(
            Diagnostic(
                code="W0010",
                severity="warning",
                message=f"the bypass of layer {model.layers - 1}, the last, skips nothing",
                span=given_in(memory, "bypass") or memory.origin.span,
                help="it lets tokens skip the layers behind its own; put it on an earlier layer, or leave it out",
            )
        )


def decimal_in(sink: Sink, fields: dict[str, Definition]) -> None:
    """Reports decimal contexts among the fields of a drawer."""
    for name, definition in fields.items():
        if name in _CONTEXTS:
            _decimal(sink, definition)


def _decimal(sink: Sink, definition: Definition) -> None:
    expr = definition.base.expr if definition.base is not None else None
    if isinstance(expr, tree.Number) and expr.unit in ("K", "M") and not isinstance(expr.value, float):
        digits = expr.span.text[: -len(expr.unit)]
        binary = expr.value // 10 ** (3 if expr.unit == "K" else 6) << (10 if expr.unit == "K" else 20)
        sink.add(
            Diagnostic(
                code="W0004",
                severity="warning",
                message=f"{expr.span.text} is {expr.value:_} tokens; contexts are usually counted in powers of two",
                span=expr.span,
                help=f"`{digits}{expr.unit}i` is {binary:_}",
            )
        )
