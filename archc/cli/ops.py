"""`archc ops`: the vocabulary that drawers write their forward in."""

from __future__ import annotations

import textwrap

import click

from archc.cli.options import format_option


@click.command()
@click.argument("name", required=False)
@format_option("text", "json")
def command(name: str | None, format: str) -> None:
    """Show every op that a drawer may use, or one of them."""
    from archc.graph.describe import usages

    chosen = [u for u in usages() if name in (None, u.kind)]
    if not chosen:
        raise click.UsageError(f"no op `{name}`; `archc ops` lists all")
    if format == "json":
        import dataclasses
        import json

        click.echo(json.dumps([dataclasses.asdict(u) | {"call": u.call} for u in chosen], indent=2))
        return
    family = ""
    for u in chosen:
        if u.family != family:
            family = u.family
            click.echo(f"{'' if u is chosen[0] else chr(10)}{family}")
        click.echo(textwrap.fill(u.call, 118, initial_indent="  ", subsequent_indent="      "))
        lines = u.doc.split("\n") if name else u.doc.split("\n\n")[0].split("\n")
        click.echo("\n".join(f"      {line}" if line else "" for line in lines))
