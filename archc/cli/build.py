"""`archc build`: writes the PyTorch package of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from archc.cli.options import format_option, fuse_option, show, spec_argument, spec_options

if TYPE_CHECKING:
    from archc.api import Fuse


@click.command()
@spec_argument
@spec_options
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where to write it.",
)
@click.option("--tiny", is_flag=True, help="The CPU-size twin: every drawer, layer kind and transition, small widths.")
@fuse_option()
@click.option(
    "--check", "only_check", is_flag=True, help="Write nothing; fail if what stands there is not what would be written."
)
@format_option("text", "json")
def command(
    spec: str,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    out: Path,
    tiny: bool,
    fuse: Fuse,
    only_check: bool,
    format: str,
) -> None:
    """Write the package of a SPEC to DIR/<model>/ and print where.

    The `check` statements of the spec must hold. A failed build leaves what stood there as it was.
    """
    from archc.api import lookup, package
    from archc.diagnostics import Sink
    from archc.emit.package import stale, write
    from archc.importers import load
    from archc.resolve import run_checks

    sink = Sink()
    resolved = load(spec, model=model, params=params, set=sets, drawers=drawers, sink=sink)
    for diagnostic in run_checks(resolved, lookup(resolved)):
        sink.add(diagnostic)
    sink.raise_errors()
    if sink.items and format == "text":
        show(sink.in_order())
    files = package(resolved, tiny=tiny, fuse=fuse)
    folder = out / resolved.name
    if only_check:
        differing = stale(files, folder)
        if format == "json":
            _json({"package": str(folder), "stale": differing})
        elif differing:
            click.echo(
                f"{folder} is stale: {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}; build it again"
            )
        else:
            click.echo(f"{folder} is up to date")
        raise SystemExit(1 if differing else 0)
    try:
        write(files, folder)
    except OSError as error:
        # One of ours says it all; the system's come with a number and the path of a temporary folder.
        reason = error.strerror.lower() if error.strerror else str(error)
        raise click.UsageError(f"cannot write {folder}: {reason}") from error
    if format == "json":
        _json({"package": str(folder), "files": sorted(files)})
    else:
        click.echo(str(folder))


def _json(data: dict[str, object]) -> None:
    import json

    click.echo(json.dumps(data, indent=2))
