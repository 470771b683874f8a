"""`archc diff`: what changes between two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._workload import asked, of_file, workload_options
from archc.cli.options import format_option, pairs, spec_options

if TYPE_CHECKING:
    from archc.diff import Level


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@spec_options
@click.option("--set-a", metavar="PATH=VALUE", multiple=True, callback=pairs, help="Amend a value of A alone.")
@click.option("--set-b", metavar="PATH=VALUE", multiple=True, callback=pairs, help="Amend a value of B alone.")
@click.option(
    "--fail-on",
    type=click.Choice(["ckpt", "numerics", "cost", "text"]),
    help="Exit with 1 where there is a finding of this level or a graver one.",
)
@workload_options
@format_option("text", "json")
@click.pass_context
def command(
    ctx: click.Context,
    a: str,
    b: str,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    set_a: dict[str, str],
    set_b: dict[str, str],
    fail_on: str | None,
    format: str,
    **workload: Any,
) -> None:
    """Show what changes from model A to model B, the gravest first.

    CKPT: a checkpoint does not load. NUMERICS: it loads and gives other outputs, or trains otherwise. COST: the same
    numbers at another price. TEXT: the same model, written otherwise.

    A and B are SPECs; FILE@MODEL is a model of a file with several. -m, -P and --set apply to both.
    """
    from archc.diff import Side, diff
    from archc.importers import load
    from archc.plan import plan

    models = []
    for spec, own in ((a, set_a), (b, set_b)):
        path, name = of_file(spec, model)
        models.append(load(path, model=name, params=params, set={**sets, **own}, drawers=drawers))
    common = asked(workload).common(models)
    sides = [Side(m, plan(m, names=common.mode == "train")) for m in models]
    reports = [common.report(side.model, side.graph, drawers) for side in sides]
    found = diff(sides[0], sides[1], (reports[0].as_dict(), reports[1].as_dict()))
    if format == "json":
        import json
        from dataclasses import asdict

        from archc.version import VERSION

        heads = {
            side: {"spec": spec, "model": m.name, "spec_hash": m.spec_hash}
            for side, spec, m in (("a", a, models[0]), ("b", b, models[1]))
        }
        data = {"archc": VERSION, **heads, "workload": asdict(reports[0].workload), **found.as_dict()}
        click.echo(json.dumps(data, indent=2))
    else:
        from archc.cli._diff.text import show

        show(found, sides[0].model, sides[1].model, reports[0])
    if fail_on is not None:
        level: Level = fail_on.upper()  # type: ignore[assignment]
        ctx.exit(int(found.reaches(level)))
