"""One door to the renderers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from archc.diagnostics.diagnostic import Diagnostic

Format = Literal["text", "json", "sarif", "github"]
FORMATS: tuple[Format, ...] = ("text", "json", "sarif", "github")


def render(
    diagnostics: Sequence[Diagnostic], format: Format = "text", *, colour: bool = False, width: int | None = None
) -> str:
    """The diagnostics in a format, ending with a newline ("" for none in text and github).

    ``colour`` and ``width`` are for text.
    """
    if format == "json":
        from archc.diagnostics.render_json import render_json

        return render_json(diagnostics)
    if format == "sarif":
        from archc.diagnostics.render_sarif import render_sarif

        return render_sarif(diagnostics)
    if format == "github":
        from archc.diagnostics.render_github import render_github

        return render_github(diagnostics)
    from archc.diagnostics.render_text import WIDTH, render_text

    return render_text(diagnostics, colour=colour, width=width or WIDTH)
