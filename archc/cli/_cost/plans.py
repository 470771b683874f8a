"""Parallel plans that fit, the fastest first."""

from __future__ import annotations

from archc.cli._console import print_all
from archc.cli._cost.units import bytes_text, count_text, seconds_text
from archc.cost.fit import Fitted, Search
from archc.cost.report import WorkloadReport


def show(name: str, w: WorkloadReport, found: Search) -> None:
    """Prints a search: the best plans, and why one whole copy on every device does not do."""
    from rich.table import Table

    hw = found.naive.setting.hardware
    assert hw is not None
    devices = found.naive.setting.parallel.devices
    title = f"[bold]{name}[/bold]: {w.mode} of {w.batch:,} x {w.seq:,} tokens on {devices:,} x {hw.label}"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("plan", "zero", "recompute", "rows", "a device", "a step", "tokens/s", "MFU"):
        words = column in ("plan", "recompute")
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=column != "plan")
    for plan in found.plans:
        t = plan.time
        table.add_row(
            _ways(plan),
            str(plan.setting.zero) if plan.setting.parallel.fsdp > 1 else "-",
            plan.setting.recompute,
            str(plan.setting.at_once(w.batch)),
            bytes_text(plan.memory.per_device["total"]),
            *(
                ("-", "-", "-")
                if t is None
                else (seconds_text(t.total_s), count_text(t.tokens_per_s), f"{100 * t.mfu:.1f} %")
            ),
        )
    part = found.naive.memory.per_device
    most = sorted(((n, b) for n, b in part.items() if n != "total" and b), key=lambda item: -item[1])[:3]
    verdict = "fits too" if found.naive.memory.fits else f"does not fit into {bytes_text(hw.memory)}"
    alone = (
        f"one whole copy on every device takes {bytes_text(part['total'])}"
        f" ({', '.join(f'{n} {bytes_text(b)}' for n, b in most)}): {verdict}"
    )
    body = table if found.plans else "no plan of these devices fits: more of them, or with more memory"
    print_all(
        title,
        "",
        body,
        "",
        alone,
        f"[dim]{found.tried:,} settings to choose from, {found.timed:,} timed; rows: at a time, of a replica[/dim]",
    )


def _ways(plan: Fitted) -> str:
    p = plan.setting.parallel
    named = ((n, getattr(p, n)) for n in ("dp", "fsdp", "tp", "pp", "ep", "cp"))
    return ",".join(f"{n}={k}" for n, k in named if k > 1) or "dp=1"
