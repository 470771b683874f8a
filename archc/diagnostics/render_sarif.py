"""Diagnostics as SARIF 2.1.0, for code scanning (OASIS, Static Analysis Results Interchange Format, 2020)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from archc.diagnostics.diagnostic import Diagnostic
from archc.diagnostics.registry import codes
from archc.diagnostics.span import Span

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render_sarif(diagnostics: Sequence[Diagnostic]) -> str:
    """One log with one run; its rules are the codes that occur."""
    used = list(dict.fromkeys(d.code for d in diagnostics))
    driver = {"name": "archc", "rules": [_rule(code) for code in used]}
    results = [_result(d, used.index(d.code)) for d in diagnostics]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _rule(code: str) -> dict[str, Any]:
    known = codes().get(code)
    if known is None:
        return {"id": code}
    return {
        "id": code,
        "shortDescription": {"text": known.title},
        "fullDescription": {"text": known.explanation.strip()},
    }


def _result(d: Diagnostic, rule: int) -> dict[str, Any]:
    text = d.message if d.help is None else f"{d.message}\nhelp: {d.help}"
    result: dict[str, Any] = {"ruleId": d.code, "ruleIndex": rule, "level": d.severity, "message": {"text": text}}
    if d.span is not None:
        result["locations"] = [{"physicalLocation": _place(d.span)}]
    if d.related:
        result["relatedLocations"] = [
            {"id": i, "message": {"text": r.message}, "physicalLocation": _place(r.span)}
            for i, r in enumerate(d.related, 1)
        ]
    return result


def _place(span: Span) -> dict[str, Any]:
    region = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
    }
    return {"artifactLocation": {"uri": quote(PurePath(span.source.name).as_posix())}, "region": region}
