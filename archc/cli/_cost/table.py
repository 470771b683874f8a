"""The report as tables."""

from __future__ import annotations

from typing import Any

from archc.cli._console import print_all
from archc.cli._cost.units import bytes_text, flops_text, share_text
from archc.cost.report import Report


def show(report: Report, room: float | None = None) -> None:
    """Prints a report; ``room`` is the memory of a device in bytes."""
    from rich.table import Table

    w, p, f, c = report.workload, report.params, report.flops, report.kv_cache
    token = f"token {w.context:,}" if w.seq == 1 else f"{w.seq:,} tokens up to {w.context:,}"
    what = {
        "train": f"training on {w.seq:,} tokens a row",
        "prefill": f"prefill of {w.seq:,} tokens a row, {w.context:,} in the end",
        "decode": f"decoding {token} of a row",
    }[w.mode]
    table = Table(box=None, pad_edge=False, header_style="bold")
    caches = w.mode != "train"
    columns = ("component", "parameters", "share", "ideal", "executed")
    for column in (*columns, "cache") if caches else columns:
        table.add_column(column, justify="left" if column == "component" else "right")
    for name, n in p.by_component.items():
        ideal, executed, kept = (d.by_component[name] for d in (f.ideal, f.executed, c))
        if n or ideal or executed or (kept and caches):
            share = "apart" if name == "mtp" else share_text(n / p.total) if n else "-"
            table.add_row(
                name,
                f"{n:,}" if n else "-",
                share,
                *(flops_text(x) if x else "-" for x in (ideal, executed)),
                *([bytes_text(kept) if kept else "-"] if caches else []),
            )
    table.add_section()
    total = (
        "total",
        f"{p.total:,}",
        "100 %",
        flops_text(f.ideal.workload_total),
        flops_text(f.executed.workload_total),
        *([bytes_text(c.bytes_total)] if caches else []),
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
    ]
    if caches:
        rows.append(
            (
                "cache",
                (
                    f"{bytes_text(c.bytes_per_token)} a token and {bytes_text(c.bytes_per_sequence_fixed)} a row,"
                    f" stored as {c.layout}"
                ),
            )
        )
    if report.time is not None:
        from archc.cli._cost.times import facts as time_facts

        rows += time_facts(report.time, train=w.mode == "train", memory=report.memory)
    for row in rows:
        facts.add_row(*row)
    notes = Table(box=None, pad_edge=False, show_header=False, style="dim")
    notes.add_column()
    notes.add_column()
    for line in report.assumptions:
        # Figures that only --format json has, or another mode's
        if not line.startswith(("weighted_fp8_equivalent", *([] if caches else ["kv_cache"]))):
            notes.add_row("-", line.replace("[", "\\["))
    title = f"[bold]{report.model}[/bold]: {what}, batch {w.batch:,}"
    more: list[Any] = []
    if report.memory is not None:
        from archc.cli._cost.memories import table as memory_table

        more += ["", memory_table(report.memory, room)]
    if report.time is not None and report.time.serving is not None:
        from archc.cli._cost.times import by_batch

        shown = report.time.serving
        more += ["", by_batch(shown) if shown else "no batch fits into memory: see --parallel"]
    print_all(title, "", table, "", facts, *more, "", "[dim]conventions[/dim]", notes, width=100)
