"""From the value of an expression to the type of a field, and back to text for messages."""

from __future__ import annotations

from typing import Any

from archc.diagnostics import Diagnostic, Span
from archc.resolve.scope import FAILED, Failed
from archc.resolve.suggest import did_you_mean
from archc.schema.describe import FieldInfo

LARGEST = 2**63 - 1
"""The largest whole number a field takes."""


class Misfit(Exception):
    """A value that a field does not take; carries the diagnostic."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


def shown(value: Any) -> str:
    """A value as messages write it: `131_072`, `true`, `[1, 2]`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:_.0f}" if value == int(value) and 10_000 <= abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


def converted(value: Any, info: FieldInfo, span: Span) -> Any:
    """``value`` as the field stores it. Raises `Misfit` when the field does not take it."""
    if value is FAILED:
        return FAILED
    if value is None:
        if info.optional:
            return None
        if "none" in info.words:
            return "none"
        raise _misfit(info, value, span)
    if isinstance(value, Word):
        if value.text in info.words:
            return value.text
        raise _misfit(info, value, span)
    if info.words and value in info.words and not isinstance(value, bool):
        return value
    match info.shape:
        case "list":
            if not isinstance(value, (list, tuple)):
                raise _misfit(info, value, span, f"write `[{shown(value)}]`" if not isinstance(value, str) else None)
            assert info.item is not None
            items = [converted(v, info.item, span) for v in value]
            return FAILED if any(isinstance(v, Failed) for v in items) else items
        case "bool" if isinstance(value, bool):
            return value
        case "int" if not isinstance(value, bool) and isinstance(value, (int, float)):
            if isinstance(value, float) and not value.is_integer():
                raise _misfit(info, value, span)
            if abs(value) > LARGEST:
                raise Misfit(
                    Diagnostic(code="E0209", message=f"`{info.name}` is too large: {shown(float(value))}", span=span)
                )
            return int(value)
        case "float" if not isinstance(value, bool) and isinstance(value, (int, float)):
            return float(value)
        case "str" if isinstance(value, str):
            return value
    raise _misfit(info, value, span)


class Word:
    """A bare name that stands for itself: a `param` over words (`param place = host in [host, device]`)."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return self.text == (other.text if isinstance(other, Word) else other)

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text


def _misfit(info: FieldInfo, value: Any, span: Span, help: str | None = None) -> Misfit:
    if info.words and isinstance(value, (str, Word)):
        return unknown_word(info, str(value), span)
    return Misfit(
        Diagnostic(code="E0202", message=f"`{info.name}` is {info.wanted}, not {shown(value)}", span=span, help=help)
    )


def unknown_word(info: FieldInfo, text: str, span: Span) -> Misfit:
    """The error for a word that the field does not know."""
    words = [str(w) for w in info.words]
    return Misfit(
        Diagnostic(
            code="E0205",
            message=f"`{info.name}` is {info.wanted}, not `{text}`",
            span=span,
            help=did_you_mean(text, words),
        )
    )
