"""Diagnostics: spans, findings, codes and how they are shown."""

from archc.diagnostics.diagnostic import ArchError, Diagnostic, Related, Severity, Sink
from archc.diagnostics.span import Source, Span

__all__ = ["ArchError", "Diagnostic", "Related", "Severity", "Sink", "Source", "Span"]
