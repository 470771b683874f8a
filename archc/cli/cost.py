"""`archc cost`: what a model will cost, before anyone trains it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from archc.cli.options import format_option, spec_argument, spec_options

if TYPE_CHECKING:
    from archc.cost.report import Mode
    from archc.cost.setting import Parallel, Recompute, Schedule, Setting, Tier
    from archc.graph import Graph
    from archc.schema import Model


class Quantity(click.ParamType):
    """A count as the language writes it: 4096, 4Ki, 1_000, 2K."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from archc.syntax.numbers import parse_number

        try:
            found, unit = parse_number(value)
        except (ValueError, OverflowError):
            found, unit = 0, ""
        if found < 1 or found != int(found) or (unit.endswith(("B", "/s")) and unit != "B"):
            self.fail(f"{value!r} is not a count like 4096 or 4Ki", param, ctx)
        return int(found)


class Ways(click.ParamType):
    """A parallel plan: dp=2,tp=8."""

    name = "plan"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Parallel:
        from archc.cost.setting import Parallel

        if isinstance(value, Parallel):
            return value
        try:
            return Parallel.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@spec_argument
@spec_options
@click.option(
    "--mode",
    type=click.Choice(["train", "prefill", "decode"]),
    default="decode",
    show_default=True,
    help="What is run.",
)
@click.option("--batch", type=Quantity(), default=1, show_default=True, help="Rows.")
@click.option("--seq", type=Quantity(), help="New tokens a row; by default 4Ki, in decode 1.")
@click.option(
    "--context",
    type=Quantity(),
    help="Tokens a row has at the end, the new ones included; decode: by default the model's context.",
)
@click.option("--hardware", metavar="NAME", help="A kind of hardware, or one that the spec declares.")
@click.option("--gpus", type=Quantity(), help="Devices; by default as many as the plan has.")
@click.option(
    "--parallel", type=Ways(), metavar="PLAN", help="How the model is spread: dp=..,fsdp=..,tp=..,pp=..,ep=..,cp=.."
)
@click.option(
    "--recompute",
    type=click.Choice(["none", "selective", "full", "mhc"]),
    default="none",
    show_default=True,
    help="What a backward pass computes again instead of keeping it.",
)
@click.option("--micro", type=Quantity(), help="Rows of a replica at a time; by default all, with pipeline stages 1.")
@click.option(
    "--zero",
    type=click.IntRange(1, 3),
    default=3,
    show_default=True,
    help="What fsdp shards: 1 optimizer state, 2 gradients too, 3 parameters too.",
)
@click.option(
    "--schedule",
    type=click.Choice(["1f1b", "zero_bubble", "dualpipe"]),
    default="1f1b",
    show_default=True,
    help="How pipeline stages take turns.",
)
@click.option(
    "--chunks",
    type=Quantity(),
    default=1,
    show_default=True,
    help="Pieces of the model on a stage, interleaved (1f1b).",
)
@click.option(
    "--imbalance",
    type=click.FloatRange(min=1),
    default=1.0,
    show_default=True,
    help="Work of the busiest device of ep over the mean.",
)
@click.option(
    "--fit", "search", is_flag=True, help="Search plans of --gpus devices of --hardware: the fastest that fit."
)
@click.option(
    "--tables",
    type=click.Choice(["device", "host", "disk"]),
    help="Where large tables of n-grams lie.  [default: as the spec says]",
)
@click.option(
    "--cache-on",
    type=click.Choice(["device", "host", "disk"]),
    default="device",
    show_default=True,
    help="Where caches lie.",
)
@click.option(
    "--tokens", type=Quantity(), help="Tokens of a training run: its GPU-hours, days and, with a price, money."
)
@click.option("--price", type=click.FloatRange(min=0, min_open=True), help="Dollars for an hour of a device.")
@click.option(
    "--cache-from",
    type=click.Choice(["host", "disk"]),
    help="Serving: time to load the cache of the context from there, against computing it.",
)
@click.option("--speculate", type=Quantity(), metavar="K", help="Decode: tokens that the model's own modules draft.")
@click.option(
    "--accept",
    type=click.FloatRange(min=0, max=1),
    help="Probability that a drafted token is accepted.  [default: 0.85]",
)
@click.option(
    "--explain", "key", metavar="KEY", help="Take one figure apart: its terms and the spec lines behind them."
)
@format_option("text", "json")
def command(
    spec: str,
    model: str | None,
    params: dict[str, str],
    sets: dict[str, str],
    drawers: tuple[Path, ...],
    mode: Mode,
    batch: int,
    seq: int | None,
    context: int | None,
    hardware: str | None,
    gpus: int | None,
    parallel: Parallel | None,
    recompute: Recompute,
    micro: int | None,
    zero: Literal[1, 2, 3],
    schedule: Schedule,
    chunks: int,
    imbalance: float,
    search: bool,
    tables: Tier | None,
    cache_on: Tier,
    tokens: int | None,
    price: float | None,
    cache_from: Literal["host", "disk"] | None,
    speculate: int | None,
    accept: float | None,
    key: str | None,
    format: str,
) -> None:
    """Parameters, FLOPs, cache, memory and time of a SPEC under a workload."""
    from dataclasses import replace

    from archc.cost.count import count
    from archc.cost.setting import check, setting_of
    from archc.importers import load
    from archc.plan import plan

    resolved = load(spec, model=model, params=params, set=sets, drawers=drawers)
    # What training keeps follows the variables of the printed forward
    graph = plan(resolved, names=mode == "train")
    try:
        setting = setting_of(
            resolved,
            hardware=hardware,
            gpus=gpus,
            parallel=parallel,
            recompute=recompute,
            tokens=tokens,
            price=price,
            drawers=drawers,
        )
        setting = replace(
            setting,
            micro=micro,
            zero=zero,
            schedule=schedule,
            chunks=chunks,
            imbalance=imbalance,
            tables=tables,
            cache=cache_on,
            serving=setting.hardware is not None and mode != "train" and key is None,
            cache_from=cache_from,
            speculate=speculate or 0,
            accept=0.85 if accept is None else accept,
        )
        check(mode, setting)
        if accept is not None and not speculate:
            raise ValueError("--accept is of drafted tokens: it needs --speculate, how many these are")
        if search:
            _search(resolved, graph, setting, gpus, parallel, (mode, batch, seq, context), format)
            return
        report = count(resolved, graph, mode=mode, batch=batch, seq=seq, context=context, setting=setting)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if key is None:
        if format == "json":
            _json(report.as_dict())
        else:
            from archc.cli._cost.table import show

            show(report, setting.hardware and setting.hardware.memory)
        return
    from archc.cost.explain import explain

    try:
        explanation = explain(resolved, graph, report, key, setting)
    except KeyError as error:
        raise click.UsageError(f"no figure `{key}`; there are {', '.join(error.args[1])}") from error
    if format == "json":
        _json(explanation.as_dict())
    else:
        from archc.cli._cost.explained import show

        show(explanation)


def _search(
    model: Model,
    graph: Graph,
    setting: Setting,
    gpus: int | None,
    given: Parallel | None,
    asked: tuple[Mode, int, int | None, int | None],
    format: str,
) -> None:
    """Searches plans and prints them. Raises ValueError for what cannot be searched."""
    from dataclasses import asdict, replace

    from archc.cost.count import workload
    from archc.cost.fit import fit

    if gpus is None or given is not None:
        raise ValueError("--fit searches plans of --gpus devices, and takes no --parallel")
    w, shown = workload(model, *asked)
    found = fit(model, graph, w, shown.mode, replace(setting, serving=False), gpus)
    if format == "json":
        naive = found.naive.as_dict()
        _json(
            {"model": model.name, "workload": asdict(shown), "naive": naive, "fit": [p.as_dict() for p in found.plans]}
        )
        return
    from archc.cli._cost.plans import show

    show(model.name, shown, found)


def _json(data: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(data, indent=2))
