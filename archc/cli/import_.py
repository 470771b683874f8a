"""`archc import`: a transformers `config.json` as a spec."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import click

from archc.cli.options import failed, format_option, show, strict_option
from archc.diagnostics import Sink
from archc.diagnostics.render import Format, render
from archc.importers import identifier, load_config


@click.command("import")
@click.argument("config", metavar="CONFIG.json", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--out",
    metavar="SPEC",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it; by default standard output.",
)
@click.option("--name", metavar="NAME", help="What to call the model; by default after SPEC, the config or its folder.")
@click.option("--mtp", is_flag=True, help="Import multi-token prediction too, where the model has it.")
@strict_option
@format_option("text", "json")
def command(config: Path, out: Path | None, name: str | None, mtp: bool, strict: bool, format: Format) -> None:
    """Write the spec of a transformers config.

    Every key of the config is accounted for: what a spec cannot say is an error, never left out.
    """
    if name is not None and name != identifier(name):
        raise click.UsageError(f"`{name}` cannot name a model; `{identifier(name)}` can")
    if name is None and out is not None:
        name = identifier(out.stem)
    sink = Sink()
    spec = load_config(config, name=name, mtp=mtp, sink=sink)
    found = sink.in_order()
    if out is not None:
        _write(out, spec.text)
    if format == "json":
        findings = json.loads(render(found, "json"))
        click.echo(json.dumps({"model": spec.name, "spec": spec.text, "out": out and str(out)} | findings, indent=2))
    elif out is not None:
        show(found)
        click.echo(f"wrote {out}: model {spec.name}")
    else:
        # Standard output is the spec, ready to be piped.
        click.echo(render(found), nl=False, err=True)
        click.echo(spec.text, nl=False)
    if failed(found, strict=strict):
        raise SystemExit(1)


def _write(path: Path, text: str) -> None:
    """Puts a file in its place in one step."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(text.encode())
        mask = os.umask(0)
        os.umask(mask)
        fresh = Path(file.name)
        fresh.chmod(0o666 & ~mask)
        fresh.replace(path)
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
