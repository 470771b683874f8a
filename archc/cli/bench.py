"""`archc bench`: what this machine takes for the calls that models are made of, and facts of a model's kernels."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._console import print_all
from archc.cli._needs import require
from archc.cli.options import format_option, fuse_option, spec_options

if TYPE_CHECKING:
    from rich.table import Table

    from archc.api import Fuse
    from archc.schema import Model

TARGETS = {"80": "sm_80", "90": "sm_90", "100": "sm_100", "gfx942": "gfx942"}


@click.command()
@click.argument("spec", metavar="[SPEC]", required=False)
@spec_options
@click.option("--calibrate", is_flag=True, help="Measure this machine, for `archc cost --hardware local`.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to measure with; by default PyTorch's own number.")
@click.option("--static", is_flag=True, help="Facts of the kernels of SPEC that need no GPU.")
@click.option(
    "--arch",
    "archs",
    type=click.Choice(list(TARGETS)),
    multiple=True,
    default=("90",),
    show_default=True,
    help="What kernels are compiled for; may be given again.",
)
@fuse_option("layers")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 64, 4096),
    show_default=True,
    help="How many tokens kernels run on; may be given again.",
)
@click.option("-k", "select", metavar="TEXT", help="Only kernels of what has TEXT in its name, no layers.")
@format_option("table", "json")
def command(
    spec: str | None,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    calibrate: bool,
    threads: int | None,
    static: bool,
    archs: tuple[str, ...],
    fuse: Fuse,
    tokens: tuple[int, ...],
    select: str | None,
    format: str,
) -> None:
    """Measure this machine, or look at the kernels of a SPEC without a GPU.

    --calibrate measures matrix products, fused attention, memory and small calls once, in about half a minute. The
    figures go into the user's data folder, one file for each number of threads; `archc cost --hardware local` reads the
    one of OMP_NUM_THREADS, or else the one of PyTorch's own number of threads.

    --static builds SPEC and runs each of its Triton kernels, forward and backward in bfloat16, on 1, 64 and 4,096
    tokens in Triton's interpreter (of many equal programs a few), counting launches and bytes; and compiles them ahead
    of time: registers, spills, shared memory, width of accesses, products of matrices. It also counts what each layer
    of the tiny twin launches, fused and not. But for how long the compiler works, none of these is a time.
    """
    if calibrate and static:
        raise click.UsageError("--calibrate measures this machine, --static looks at a model: one at a time")
    if static:
        if spec is None:
            raise click.UsageError("whose kernels? archc bench --static SPEC")
        require(("torch", "triton", "ml_dtypes"))
        from archc.importers import load

        resolved = load(spec, model=model, params=params, set=sets, drawers=drawers)
        _static(resolved, archs, fuse, tokens, select, format)
        return
    if spec is not None:
        raise click.UsageError(f"archc bench --static {spec} looks at kernels; --calibrate alone measures this machine")
    if not calibrate:
        raise click.UsageError("nothing to do: --calibrate measures this machine, --static SPEC looks at kernels")
    require(("torch",))
    from archc import machine
    from archc.cli._bench.calibrate import calibrate as measure

    begun = time.perf_counter()
    data = measure(threads, _tell)
    data["date"], data["seconds"] = time.strftime("%Y-%m-%d"), round(time.perf_counter() - begun, 1)
    path = machine.save(data, default=threads is None)
    if format == "json":
        import json

        click.echo(json.dumps({"path": str(path), **data}))
        return
    print_all(f"[bold]{data['cpu']}[/], {data['threads']} threads, PyTorch {data['torch']}", "", _table(data))
    click.echo(f"measured in {data['seconds']:.0f} s, kept in {path}")


def _tell(what: str) -> None:
    click.echo(f"{'measuring ' * (' ' not in what)}{what} ...", err=True)


def _static(
    model: Model, archs: tuple[str, ...], fuse: Fuse, tokens: tuple[int, ...], select: str | None, format: str
) -> None:
    """Prints facts of a model's kernels."""
    from archc.api import build, planned
    from archc.cli._bench.rows import counts, layers, rows
    from archc.cli._bench.subjects import subjects

    found = [s for s in subjects(planned(model, fuse), counts(tokens)) if select is None or select in s.op]
    if not found:
        raise click.UsageError(f"no kernel of {model.name} has `{select}` in its name")
    with tempfile.TemporaryDirectory(prefix="archc-bench-", ignore_cleanup_errors=True) as scratch:
        package = build(model, scratch, fuse=fuse)
        made = rows(package, found, [TARGETS[arch] for arch in archs], _tell, tokens)
        alone = None if select or fuse == "none" else build(model, Path(scratch) / "alone", fuse="none")
        whole = [] if select else layers(package, alone)
    if format == "json":
        import json

        click.echo(json.dumps({"model": model.name, "rows": made, "layers": whole}, indent=1))
    else:
        from archc.cli._bench.table import show

        show(model.name, made, whole)
    if any("error" in row for row in made):
        raise SystemExit(1)


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
