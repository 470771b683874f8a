"""`archc sweep`: what the variants of a model cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._workload import Asked, asked, workload_options
from archc.cli.options import format_option, spec_argument, spec_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archc.cost.sweep import Variant
    from archc.resolve.family import Family
    from archc.resolve.solves import Solve
    from archc.schema import Model, Sweep

SUFFIXES = (".csv", ".json", ".png", ".svg")


def _values(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`name=8,16,32` options as a dict."""
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        name, _, values = (part.strip() for part in text.partition("="))
        parts = tuple(filter(None, (v.strip() for v in values.strip("[]").split(","))))
        if not name or not parts:
            raise click.BadParameter(f"`{text}` is not of the form name=8,16,32", ctx, option)
        if name in found:
            raise click.BadParameter(f"`{name}` is given twice", ctx, option)
        found[name] = parts
    return found


def _out(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in SUFFIXES:
        raise click.BadParameter(f"`{path}` ends in none of {', '.join(SUFFIXES)}", ctx, option)
    return path


@click.command()
@spec_argument
@click.argument("name", required=False)
@spec_options
@workload_options
@click.option(
    "--vary",
    "vary",
    metavar="PARAM=A,B,..",
    multiple=True,
    callback=_values,
    help="Sweep a param over these.",
)
@click.option("--minimise", "small", metavar="KEY", multiple=True, help="Mark the Pareto front of these cost keys.")
@click.option("--maximise", "large", metavar="KEY", multiple=True, help="Keys of the front that should be large.")
@click.option("--x", default="params.total", show_default=True, metavar="KEY", help="Cost key or param across a plot.")
@click.option(
    "--y",
    default="flops.ideal.forward_per_token",
    show_default=True,
    metavar="KEY",
    help="And up.",
)
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_out,
    help="Write to a file; .csv, .json, .png or .svg.",
)
@format_option("table", "json", "csv")
def command(
    spec: str,
    name: str | None,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    vary: dict[str, tuple[str, ...]],
    small: tuple[str, ...],
    large: tuple[str, ...],
    x: str,
    y: str,
    out: Path | None,
    format: str,
    **workload: Any,
) -> None:
    """Cost of every variant of a SPEC: of its sweep NAME (needed where it has several), or of params that vary."""
    from archc.cli._sweep.columns import Axis, keys_of
    from archc.cost.sweep import DEEP, front
    from archc.importers import is_config
    from archc.resolve.family import Family

    if is_config(spec):
        raise click.UsageError("a config has no params to sweep: `archc import` makes a spec of it")
    plotting = out is not None and out.suffix in (".png", ".svg")
    if plotting:
        _need_matplotlib()
    family = Family(spec, model=model, params=params, set=sets, drawers=drawers)
    what, values, solves = _chosen(family, name, vary)
    axes = [Axis(key) for key in small] + [Axis(key, largest=True) for key in large]
    asked_for = asked(workload)
    further = [axis.key for axis in axes] + ([x, y] if plotting else [])
    deep = asked_for.hardware is not None or family.base.hardware is not None
    whole = deep or any(key.partition(".")[0] in DEEP for key in further)
    try:
        variants = list(_progress(_run(family, values, solves, asked_for, drawers, whole), _count(values)))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    keys = keys_of(_deep(variants) if deep else (), further, list(values), [s.param for s in solves])
    marks = _marked(variants, keys, axes, front)
    heading = f"{family.base.name}: {what}, {len(variants):,} variants"
    if plotting and out is not None:
        from archc.cli._sweep.plot import save

        save(out, heading, variants, x, y, marks)
        click.echo(f"wrote {out}")
    else:
        _write(heading, what, family.base.name, variants, keys, marks, out, format)


def _chosen(
    family: Family, name: str | None, vary: dict[str, tuple[str, ...]]
) -> tuple[str, dict[str, tuple[Any, ...]], tuple[Solve, ...]]:
    """What is swept, in words, the values of its params, and what is solved for in each variant."""
    sweeps = {sweep.name: sweep for sweep in family.base.sweeps}
    if vary:
        if name is not None:
            raise click.UsageError("name a sweep or vary params, not both")
        known = [n for n, _ in family.base.params]
        for param in vary:
            if param not in known:
                have = f"params: {', '.join(known)}" if known else "the spec declares none: `param NAME = ... in ...`"
                raise click.UsageError(f"no param `{param}`; {have}")
        return ", ".join(vary), dict(vary), ()
    sweep = _sweep(sweeps, name)
    return f"sweep {sweep.name}", dict(sweep.values), sweep.solves


def _sweep(sweeps: dict[str, Sweep], name: str | None) -> Sweep:
    if name is None and len(sweeps) == 1:
        return next(iter(sweeps.values()))
    if not sweeps:
        raise click.UsageError("the spec declares no sweep: write `sweep NAME { param = [...] }`, or --vary a param")
    if name is None:
        raise click.UsageError(f"which sweep? There are {', '.join(sweeps)}")
    if name not in sweeps:
        raise click.UsageError(f"no sweep `{name}`; there are {', '.join(sweeps)}")
    return sweeps[name]


def _run(
    family: Family,
    values: dict[str, tuple[Any, ...]],
    solves: tuple[Solve, ...],
    asked_for: Asked,
    drawers: tuple[Path, ...],
    whole: bool,
) -> Iterator[Variant]:
    from archc.cost.sweep import variants

    def report(model: Model) -> Any:
        from archc.plan import plan

        return asked_for.report(model, plan(model, names=asked_for.mode == "train"), drawers)

    workload = {key: getattr(asked_for, key) for key in ("mode", "batch", "seq", "context")}
    return variants(family, values, workload, report if whole else None, solves)


def _count(values: dict[str, tuple[Any, ...]]) -> int:
    total = 1
    for each in values.values():
        total *= len(each)
    return total


def _progress(variants: Iterator[Variant], total: int) -> Iterator[Variant]:
    """The variants, with a bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield from variants
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(variants, "variants", total=total, console=Console(stderr=True), transient=True)


def _deep(variants: Sequence[Variant]) -> tuple[str, ...]:
    """The sections beyond the plain ones that the reports have."""
    return tuple(
        name for name in ("memory", "time") if any(getattr(v.report, name, None) is not None for v in variants)
    )


def _marked(variants: Sequence[Variant], keys: list[str], axes: list[Any], front: Any) -> list[bool] | None:
    """Which variants are on the front, among the sound ones; None where there are no axes."""
    from archc.cli._sweep.columns import figure

    counted = [v for v in variants if v.report is not None]
    try:
        for key in keys:
            for variant in counted[:1]:
                figure(variant, key)
    except KeyError as error:
        key, known = error.args
        there = ", ".join(known) or "params of the sweep, and the keys of `archc cost --format json`"
        raise click.UsageError(f"no figure `{key}`; there are {there}") from error
    if not axes:
        return None
    sound = [i for i, v in enumerate(variants) if v.sound]
    best = front([[axis.value(variants[i]) for axis in axes] for i in sound])
    marked = {i for i, mark in zip(sound, best, strict=True) if mark}
    return [i in marked for i in range(len(variants))]


def _write(
    heading: str,
    name: str,
    model: str,
    variants: Sequence[Variant],
    keys: list[str],
    marks: list[bool] | None,
    out: Path | None,
    format: str,
) -> None:
    from archc.cli._sweep import write

    kind = format if out is None else out.suffix[1:]
    if kind == "table":
        write.show(heading, variants, keys, marks)
        return
    if kind == "csv":
        text = write.as_csv(variants, keys, marks)
    else:
        import json

        text = json.dumps(write.as_dict(name, model, variants, marks), indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        click.echo(f"wrote {out}")


def _need_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise click.UsageError("a plot needs matplotlib: pip install 'archc-lang[plot]'; .csv and .json need nothing")
