"""`archc schema`: the language as JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from archc.cli.options import drawers_option


@click.command()
@drawers_option
@click.option("--format", type=click.Choice(("json",)), default="json", expose_value=False, help="JSON Schema is JSON.")
def command(drawers: tuple[Path, ...]) -> None:
    """Print the JSON Schema of the language: every slot, kind and field, with units, limits and defaults."""
    from archc.drawers import DrawerError
    from archc.drawers.catalog import json_schema

    try:
        schema = json_schema(tuple(d.resolve() for d in drawers))
    except DrawerError as error:
        raise click.UsageError(f"the drawer file {error.path} cannot be used: {error.reason}") from error
    click.echo(json.dumps(schema, indent=2, ensure_ascii=False))
