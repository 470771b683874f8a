"""The report as tables."""

from __future__ import annotations

from archc.cli._cost.units import bytes_text, flops_text, share_text
from archc.cli._plain import Column, Line, Table, write
from archc.cost.report import Report


def show(report: Report, room: float | None = None) -> None:
    """Prints a report; ``room`` is the memory of a device in bytes."""
    w, p, f, c = report.workload, report.params, report.flops, report.kv_cache
    token = f"token {w.context:,}" if w.seq == 1 else f"{w.seq:,} tokens up to {w.context:,}"
    what = {
        "train": f"training on {w.seq:,} tokens a row",
        "prefill": f"prefill of {w.seq:,} tokens a row, {w.context:,} in the end",
        "decode": f"decoding {token} of a row",
    }[w.mode]
    caches = w.mode != "train"
    figures = ("parameters", "share", "ideal", "executed", "cache")
    table = Table(Column("component"), *(Column(title, "right") for title in (figures if caches else figures[:-1])))
    for name, n in p.by_component.items():
        ideal, executed, kept = (d.by_component[name] for d in (f.ideal, f.executed, c))
        if n or ideal or executed or (kept and caches):
            share = "apart" if name == "mtp" else share_text(n / p.total) if n else "-"
            table.add(
                name,
                f"{n:,}" if n else "-",
                share,
                *(flops_text(x) if x else "-" for x in (ideal, executed)),
                *([bytes_text(kept) if kept else "-"] if caches else []),
            )
    total = (
        "total",
        f"{p.total:,}",
        "100 %",
        flops_text(f.ideal.workload_total),
        flops_text(f.executed.workload_total),
        *([bytes_text(c.bytes_total)] if caches else []),
    )
    table.add(*total, style="bold")
    facts = Table(Column(style="dim"), Column(), header=False)
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
    if (t := report.tables) is not None:
        lie = " and ".join(f"{bytes_text(n)} on {where}" for where, n in t.bytes_by_tier.items() if n)
        read = f"{t.rows_per_token:,} rows, {bytes_text(t.bytes_per_token)}"
        rows.append(("tables", f"{t.parameters:,} parameters, {lie}; a token reads {read}"))
    if report.time is not None:
        from archc.cli._cost.times import facts as time_facts

        rows += time_facts(report.time, train=w.mode == "train", memory=report.memory)
    for row in rows:
        facts.add(*row)
    notes = Table(Column(), Column(), header=False, style="dim")
    for line in report.assumptions:
        # Figures that only --format json has, or another mode's
        if not line.startswith(("weighted_fp8_equivalent", *([] if caches else ["kv_cache"]))):
            notes.add("-", line)
    title = Line(f"{report.model}: {what}, batch {w.batch:,}", "bold", len(report.model))
    more: list[str | Table] = []
    if report.memory is not None:
        from archc.cli._cost.memories import table as memory_table

        more += ["", memory_table(report.memory, room)]
    if report.time is not None and report.time.serving is not None:
        from archc.cli._cost.times import by_batch

        shown = report.time.serving
        more += ["", by_batch(shown) if shown else "no batch fits into memory: see --parallel"]
    write(title, "", table, "", facts, *more, "", Line("conventions", "dim"), notes, width=100)
