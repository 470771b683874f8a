"""`archc report`: models and their costs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._workload import Asked, asked, of_file, workload_options
from archc.cli.options import spec_options, specs_argument

if TYPE_CHECKING:
    from archc.graph import Graph
    from archc.report import Subject
    from archc.schema import Model

MOST = 6
"""Models on one page: so many colours are told apart."""


@click.command()
@specs_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The file to write.",
)
@spec_options
@workload_options
def command(
    specs: tuple[str, ...],
    output: Path,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    **workload: Any,
) -> None:
    """Write a page about SPECs: layers as a picture, costs as tables, plots over context and batch, side by side.

    The page is one file that needs no network. FILE@MODEL is a model of a file with several; -m, -P and --set apply to
    all.
    """
    from archc.importers import load
    from archc.plan import plan
    from archc.report import render

    if len(specs) > MOST:
        raise click.UsageError(f"{len(specs)} models do not fit side by side on a page; {MOST} do")
    models = []
    for spec in specs:
        path, name = of_file(spec, model)
        models.append(load(path, model=name, params=params, set=sets, drawers=drawers))
    common = asked(workload).common(models)
    subjects = [
        _subject(i, spec, m, plan(m, names=common.mode == "train"), common, drawers)
        for i, (spec, m) in enumerate(zip(specs, models, strict=True))
    ]
    text = render(subjects)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8", newline="\n")
    click.echo(f"wrote {output}: {', '.join(m.name for m in models)}")


def _subject(index: int, spec: str, model: Model, graph: Graph, common: Asked, drawers: tuple[Path, ...]) -> Subject:
    from dataclasses import replace

    from archc.cost.setting import named
    from archc.report import Subject

    def cost(**changes: Any) -> dict[str, Any]:
        again = replace(common, **changes)
        if changes.get("mode") == "decode" and common.mode != "decode":
            again = replace(again, seq=None)
        return again.report(model, graph, drawers).as_dict()

    try:
        hardware = named(model, common.hardware, drawers)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return Subject(index=index, model=model, spec=spec, cost=cost, options=common.words(), hardware=hardware)
