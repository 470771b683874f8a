"""Diagnostics as GitHub workflow commands, which show up as annotations on the lines of a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from archc.diagnostics.diagnostic import Diagnostic

_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


def render_github(diagnostics: Sequence[Diagnostic]) -> str:
    """One `::error file=..,line=..::message` per diagnostic and line."""
    return "".join(_command(d) + "\n" for d in diagnostics)


def _command(d: Diagnostic) -> str:
    properties = {"title": d.code}
    if d.span is not None:
        place = {"file": d.span.source.name, "line": d.span.line, "endLine": d.span.end_line}
        if d.span.line == d.span.end_line:
            # GitHub takes columns only for one line, and counts the last one in.
            place |= {"col": d.span.column, "endColumn": max(d.span.end_column - 1, d.span.column)}
        properties = {**{k: str(v) for k, v in place.items()}, **properties}
    message = d.message if d.help is None else f"{d.message}\nhelp: {d.help}"
    listed = ",".join(f"{key}={_escape(value, also=':,')}" for key, value in properties.items())
    return f"::{_LEVELS[d.severity]} {listed}::{_escape(message)}"


def _escape(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
