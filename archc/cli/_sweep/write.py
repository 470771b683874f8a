"""The variants of a sweep as a table, as CSV, as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from archc.cli._console import print_all
from archc.cli._sweep.columns import figure, text, title
from archc.cost.sweep import Variant


def show(heading: str, variants: Sequence[Variant], keys: Sequence[str], marks: Sequence[bool] | None) -> None:
    """Prints the variants that can be counted as a table, then the others with their reasons."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    params = list(variants[0].values) if variants else []
    for name in params:
        table.add_column(name, justify="right")
    for key in keys:
        table.add_column(title(key), justify="right")
    if marks is not None:
        table.add_column("front")
    broken: list[str] = []
    for i, variant in enumerate(variants):
        named = ", ".join(f"{k} = {v}" for k, v in variant.values.items())
        if variant.findings:
            broken.append(f"{named}: {variant.findings[0].message}")
        if variant.report is None:
            continue
        cells = [text("", v) for v in variant.values.values()] + [text(k, figure(variant, k)) for k in keys]
        mark = [] if marks is None else ["*" if marks[i] else ""]
        table.add_row(*cells, *mark, style="dim" if variant.findings else None)
    parts: list[Any] = [f"[bold]{escape(heading)}[/bold]", "", table]
    if broken:
        parts += ["", f"[bold]{len(broken)} of {len(variants)} do not hold[/bold]", *map(escape, broken)]
    print_all(*parts)


def as_csv(variants: Sequence[Variant], keys: Sequence[str], marks: Sequence[bool] | None) -> str:
    """One line for each variant: params, figures in full, whether it is on the front, what is wrong with it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    params = list(variants[0].values) if variants else []
    writer.writerow([*params, *keys, *(["front"] if marks is not None else []), "finding"])
    for i, variant in enumerate(variants):
        figures = [""] * len(keys) if variant.report is None else [figure(variant, key) for key in keys]
        mark = [] if marks is None else [str(marks[i]).lower()]
        writer.writerow([*variant.values.values(), *figures, *mark, _finding(variant)])
    return out.getvalue()


def as_dict(name: str, model: str, variants: Sequence[Variant], marks: Sequence[bool] | None) -> dict[str, Any]:
    """Every variant with its whole report."""
    return {
        "format_version": 1,
        "sweep": name,
        "model": model,
        "variants": [
            {
                "params": dict(variant.values),
                "cost": None if variant.report is None else variant.report.as_dict(),
                **({} if marks is None else {"front": marks[i]}),
                "findings": [{"code": d.code, "message": d.message} for d in variant.findings],
            }
            for i, variant in enumerate(variants)
        ],
    }


def _finding(variant: Variant) -> str:
    return "; ".join(f"{d.code}: {d.message}" for d in variant.findings)
