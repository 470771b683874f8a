"""`archc cost`: what a model will cost, before anyone trains it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._console import print_all
from archc.cli.options import format_option, spec_argument, spec_options

if TYPE_CHECKING:
    from archc.cost.explain import Explanation
    from archc.cost.report import Mode, Report


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
    key: str | None,
    format: str,
) -> None:
    """Parameters, FLOPs and cache of a SPEC under a workload."""
    from archc.cost.count import count
    from archc.importers import load
    from archc.plan import plan

    resolved = load(spec, model=model, params=params, set=sets, drawers=drawers)
    graph = plan(resolved)
    try:
        report = count(resolved, graph, mode=mode, batch=batch, seq=seq, context=context)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if key is None:
        _json(report.as_dict()) if format == "json" else _table(report)
        return
    from archc.cost.explain import explain

    try:
        explanation = explain(resolved, graph, report, key)
    except KeyError as error:
        raise click.UsageError(f"no figure `{key}`; there are {', '.join(error.args[1])}") from error
    _json(explanation.as_dict()) if format == "json" else _explained(explanation)


def _json(data: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(data, indent=2))


# --- tables --------------------------------------------------------------------------------------
def flops_text(n: float) -> str:
    """``28.5 GFLOP``"""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:,.2f} {unit}FLOP"
    return f"{n:,.0f} FLOP"


def bytes_text(n: float) -> str:
    """``16.0 GiB``"""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:,.2f} {unit}"
    return f"{n:,.0f} B"


def _table(report: Report) -> None:
    from rich.table import Table

    w, p, f, c = report.workload, report.params, report.flops, report.kv_cache
    token = f"token {w.context:,}" if w.seq == 1 else f"{w.seq:,} tokens up to {w.context:,}"
    what = {
        "train": f"training on {w.seq:,} tokens a row",
        "prefill": f"prefill of {w.seq:,} tokens a row, {w.context:,} in the end",
        "decode": f"decoding {token} of a row",
    }[w.mode]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("component", "parameters", "share", "ideal", "executed", "cache"):
        table.add_column(column, justify="left" if column == "component" else "right")
    for name, n in p.by_component.items():
        ideal, executed, kept = (d.by_component[name] for d in (f.ideal, f.executed, c))
        if n or ideal or executed or kept:
            share = "apart" if name == "mtp" else _share(n / p.total) if n else "-"
            table.add_row(
                name,
                f"{n:,}" if n else "-",
                share,
                *(flops_text(x) if x else "-" for x in (ideal, executed)),
                bytes_text(kept) if kept else "-",
            )
    table.add_section()
    total = (
        "total",
        f"{p.total:,}",
        "100 %",
        flops_text(f.ideal.workload_total),
        flops_text(f.executed.workload_total),
        bytes_text(c.bytes_total),
    )
    table.add_row(*total, style="bold")
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="dim")
    facts.add_column()
    rows = [
        (
            "active a token",
            (
                f"{p.active:,} with embedding and head, {p.active_without_embedding:,} without the embedding,"
                f" {p.active_core:,} without both"
            ),
        ),
        (
            "FLOPs a token",
            (
                f"forward {flops_text(f.ideal.forward_per_token)} ideal,"
                f" {flops_text(f.executed.forward_per_token)} executed"
                + (
                    f"; with backward {flops_text(f.ideal.train_per_token)} ideal,"
                    f" {flops_text(f.executed.train_per_token)} executed"
                    if w.mode == "train"
                    else ""
                )
            ),
        ),
        (
            "cache",
            (
                f"{bytes_text(c.bytes_per_token)} a token and {bytes_text(c.bytes_per_sequence_fixed)} a row,"
                f" stored as {c.layout}"
            ),
        ),
    ]
    for row in rows:
        facts.add_row(*row)
    notes = Table(box=None, pad_edge=False, show_header=False, style="dim")
    notes.add_column()
    notes.add_column()
    for line in report.assumptions:
        if not line.startswith("weighted_fp8_equivalent"):  # a figure that only --format json has
            notes.add_row("-", line.replace("[", "\\["))
    title = f"[bold]{report.model}[/bold]: {what}, batch {w.batch:,}"
    print_all(title, "", table, "", facts, "", "[dim]conventions[/dim]", notes, width=100)


def _share(part: float) -> str:
    """``97.4 %``; what is there is never 0.0 %."""
    return f"{100 * part:.1f} %" if part >= 0.0005 else "< 0.1 %"


def _explained(e: Explanation) -> None:
    from rich.table import Table

    value = f"{e.value:,}" if isinstance(e.value, int | float) else e.value
    parts: list[Any] = [f"[bold]{e.key}[/bold] = {value}", ""]
    if e.terms:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("term", "count", "one of them", "together"):
            table.add_column(column, justify="right" if column in ("count", "together") else "left", overflow="fold")
        for term in e.terms:
            table.add_row(term.what, f"{term.count:,}", term.formula.replace("[", "\\["), f"{term.total:,}")
        parts.append(table)
        if e.over > 1:
            parts.append(f"all together {sum(t.total for t in e.terms):,}, of {e.over:,} tokens")
        parts.append("")
    if e.sources:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("set by", "value", "where"):
            table.add_column(column)
        for source in e.sources:
            table.add_row(
                f"{source.drawer}: {source.field}", source.value, ", then ".join(str(s) for s in source.spans)
            )
        parts.append(table)
    print_all(*parts)
