"""`archc explain`: what a code means, with an example that fails and one that does not."""

from __future__ import annotations

import dataclasses
import json
import textwrap

import click

from archc.cli.options import format_option
from archc.diagnostics.registry import Code, codes
from archc.diagnostics.suggest import closest


@click.command()
@click.argument("code", required=False)
@format_option("text", "json")
def command(code: str | None, format: str) -> None:
    """Explain a diagnostic CODE such as E0001; without one, list them all."""
    known = codes()
    if code is None:
        chosen = list(known.values())
        click.echo(
            json.dumps([_as_dict(c) for c in chosen], indent=2, ensure_ascii=False)
            if format == "json"
            else _listing(chosen)
        )
        return
    found = known.get(code.upper())
    if found is None:
        near = closest(code.upper(), known)
        hint = f"did you mean {near}?" if near else "`archc explain` lists all codes."
        raise click.UsageError(f"there is no code `{code}`; {hint}")
    click.echo(json.dumps(_as_dict(found), indent=2, ensure_ascii=False) if format == "json" else _page(found))


def _as_dict(code: Code) -> dict[str, str]:
    return {**dataclasses.asdict(code), "area": code.area, "severity": code.severity}


def _listing(chosen: list[Code]) -> str:
    """The codes by area."""
    lines: list[str] = []
    for area in dict.fromkeys(c.area for c in chosen):
        lines += ["", area] if lines else [area]
        lines += [f"  {c.id}  {c.title}" for c in chosen if c.area == area]
    return "\n".join(lines)


def _page(code: Code) -> str:
    """All that is known of one code."""
    fails, works = (textwrap.indent(example.rstrip("\n"), "    ") for example in (code.failing, code.fixed))
    title = f"{code.severity}[{code.id}]: {code.title}"
    return f"{title}\n\n{code.explanation.strip()}\n\nThis fails:\n\n{fails}\n\nThis does not:\n\n{works}"
