"""`archc bench`: what this machine takes for the calls that models are made of."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from archc.cli._console import print_all
from archc.cli._needs import require
from archc.cli.options import format_option

if TYPE_CHECKING:
    from rich.table import Table


@click.command()
@click.argument("spec", metavar="[SPEC|DIR]", required=False)
@click.option("--calibrate", is_flag=True, help="Measure this machine, for `archc cost --hardware local`.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to measure with; by default PyTorch's own number.")
@format_option("text", "json")
def command(spec: str | None, calibrate: bool, threads: int | None, format: str) -> None:
    """Measure this machine once: matrix products, fused attention, memory and small calls, in about half a minute.

    The figures go into the user's data folder, one file for each number of threads; `archc cost --hardware local` reads
    the one of OMP_NUM_THREADS, or else the one of PyTorch's own number of threads.
    """
    if spec is not None:
        raise click.UsageError("`archc bench` measures machines, not models yet: archc bench --calibrate")
    if not calibrate:
        raise click.UsageError("nothing to do: archc bench --calibrate measures this machine")
    require(("torch",))
    from archc import machine
    from archc.cli._bench.calibrate import calibrate as measure

    begun = time.perf_counter()
    data = measure(threads, lambda what: click.echo(f"measuring {what} ...", err=True))
    data["date"], data["seconds"] = time.strftime("%Y-%m-%d"), round(time.perf_counter() - begun, 1)
    path = machine.save(data, default=threads is None)
    if format == "json":
        import json

        click.echo(json.dumps({"path": str(path), **data}))
        return
    print_all(f"[bold]{data['cpu']}[/], {data['threads']} threads, PyTorch {data['torch']}", "", _table(data))
    click.echo(f"measured in {data['seconds']:.0f} s, kept in {path}")


def _table(data: dict[str, Any]) -> Table:
    """The figures that say most."""
    from rich.table import Table

    from archc.cli._cost.units import flops_text

    products, cold, moves = data["products"], data["cold"], data["moves"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "float32", "bfloat16"):
        table.add_column(column, justify="left" if column == "what" else "right")

    def rate(name: str, rows: int) -> str:
        found = [2 * m * k * n / s for m, k, n, s in products[name] if (m, k, n) == (rows, 1024, 1024)]
        return f"{flops_text(found[0])}/s"

    def read(name: str) -> str:
        found = [1 / s for _, m, s in cold[name] if m == 1]
        return f"{found[-1] / 1e9:.1f} GB/s"

    for rows in (1, 16, 1024):
        table.add_row(
            f"[{rows:,}, 1,024] by [1,024, 1,024]".replace("[", "\\["), rate("fp32", rows), rate("bf16", rows)
        )
    table.add_row("weights from memory, one row", read("fp32"), read("bf16"))
    for kind, what in (("map", "a product of elements, new memory"), ("update", "the same in place")):
        moved, seconds = moves[kind][-2]
        table.add_row(f"{what}, {moved / 1e6:.0f} MB", f"{moved / seconds / 1e9:.1f} GB/s", "")
    few, many = data["swept"][0][1], data["swept"][-1][1]
    table.add_row("a small call", f"{1e6 * few:.1f} us", "")
    table.add_row("a small call after 64 MiB of weights", f"{1e6 * many:.1f} us", "")
    return table
