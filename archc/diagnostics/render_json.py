"""Diagnostics as JSON, for editors and scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from archc.diagnostics.diagnostic import Diagnostic
from archc.diagnostics.span import Span

FORMAT_VERSION = 1


def render_json(diagnostics: Sequence[Diagnostic]) -> str:
    """One object: `format_version` and `diagnostics`, each with code, severity, message, span, help and related spans.

    Lines and columns count from 1, in characters; `end_column` is one past the last.
    """
    return (
        json.dumps(
            {"format_version": FORMAT_VERSION, "diagnostics": [as_dict(d) for d in diagnostics]},
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )


def as_dict(d: Diagnostic) -> dict[str, Any]:
    """One diagnostic in JSON's types."""
    return {
        "code": d.code,
        "severity": d.severity,
        "message": d.message,
        "span": _span(d.span),
        "context": _span(d.context),
        "help": d.help,
        "related": [{"message": r.message, "span": _span(r.span)} for r in d.related],
    }


def _span(span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    return {
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }
