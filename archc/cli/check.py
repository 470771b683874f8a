"""`archc check`: everything that can be wrong with a spec."""

from __future__ import annotations

from pathlib import Path

import click

from archc.cli.options import failed, format_option, show, spec_options, specs_argument, strict_option, summary
from archc.diagnostics import ArchError, Diagnostic, Sink
from archc.diagnostics.render import Format


@click.command()
@specs_argument
@spec_options
@strict_option
@format_option()
def command(
    specs: tuple[str, ...],
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    strict: bool,
    format: Format,
) -> None:
    """Check specs: syntax, names, values, schedules, shapes, `check` statements and lints.

    A SPEC is a path, or the name of a spec in the library. All models of a file are checked unless -m names one.
    """
    found: list[Diagnostic] = []
    checked = 0
    for spec in specs:
        diagnostics, models = _check(spec, model, params, sets, drawers)
        found += diagnostics
        checked += models
    show(found, format)
    if format == "text":
        gap = "\n" if found else ""
        click.echo(f"{gap}{_counted(len(specs), 'spec')}, {_counted(checked, 'model')}: {summary(found)}")
    if failed(found, strict=strict):
        raise SystemExit(1)


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


def _check(
    spec: str, model: str | None, params: dict[str, str], sets: dict[str, str], drawers: tuple[Path, ...]
) -> tuple[list[Diagnostic], int]:
    """The diagnostics of one spec, and how many of its models are sound."""
    from archc.importers import load, load_all
    from archc.resolve import run_checks
    from archc.resolve.solves import check_solves

    sink = Sink()
    try:
        if model or params or sets:
            models = (load(spec, model=model, params=params, set=sets, drawers=drawers, sink=sink),)
        else:
            models = load_all(spec, drawers=drawers, sink=sink)
    except ArchError:
        return list(sink.in_order()), 0
    sound = 0
    for each in models:
        try:
            from archc.api import lookup

            cost = lookup(each)
            broken = run_checks(each, cost) + check_solves(each, cost)
        except ArchError as error:
            broken = error.diagnostics
        for diagnostic in broken:
            sink.add(diagnostic)
        sound += not failed(broken)
    return list(sink.in_order()), sound
