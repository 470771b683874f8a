"""What the compiler tells the person who wrote a spec."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from archc.diagnostics.span import Span
from archc.record import dataclass

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """A second place that helps to understand a diagnostic ("first defined here")."""

    span: Span
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding: a stable code, one sentence, a tight span, and what to do about it."""

    code: str
    message: str
    span: Span | None = None
    severity: Severity = "error"
    context: Span | None = None
    """A wider stretch to show around the span (the statement or block it stands in)."""
    help: str | None = None
    related: tuple[Related, ...] = ()


class ArchError(Exception):
    """Raised by the Python API when a spec has errors; ``diagnostics`` holds all of them, in source order."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        super().__init__("\n".join(f"{d.code}: {d.message}" + (f" ({d.span})" if d.span else "") for d in diagnostics))
        self.diagnostics = diagnostics


@dataclass()
class Sink:
    """Collects diagnostics of a run. Errors are gathered, not thrown, so that a user sees all of them at once."""

    items: list[Diagnostic] = field(default_factory=list)
    _seen: set[tuple[str, Span | None]] = field(default_factory=set, repr=False)

    def add(self, diagnostic: Diagnostic) -> None:
        """Keeps a diagnostic unless one with the same code already stands at the same span."""
        key = (diagnostic.code, diagnostic.span)
        if key not in self._seen:
            self._seen.add(key)
            self.items.append(diagnostic)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors among the diagnostics."""
        return tuple(d for d in self.items if d.severity == "error")

    def in_order(self) -> tuple[Diagnostic, ...]:
        """All diagnostics by file, line and column; those without a place last."""

        def key(d: Diagnostic) -> tuple[bool, str, int, int]:
            return (
                d.span is None,
                d.span.source.name if d.span else "",
                d.span.line if d.span else 0,
                d.span.column if d.span else 0,
            )

        return tuple(sorted(self.items, key=key))

    def raise_errors(self) -> None:
        """Raises `ArchError` if there is an error."""
        if self.errors:
            raise ArchError(self.in_order())
