"""The variants of a sweep as a table, as CSV, as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from archc.cli._console import columns, print_all
from archc.cli._sweep.blocks import Column, blocks
from archc.cli._sweep.columns import figure, is_share, shown, text, title
from archc.cost.sweep import Variant
from archc.resolve.solves import Solved


def show(heading: str, variants: Sequence[Variant], keys: Sequence[str], marks: Sequence[bool] | None) -> None:
    """Prints the variants that can be counted as a table, then the others with their reasons.

    A table too wide for the terminal goes on below, with the params again.
    """
    from rich.markup import escape

    params = list(variants[0].values) if variants else []
    sound = [i for i, v in enumerate(variants) if v.report is not None]
    figures = [Column(title(key), [shown(variants[i], key) for i in sound]) for key in keys if not is_share(key)]
    if marks is not None:
        figures.append(Column("front", ["*" if marks[i] else "" for i in sound]))
    heads = [Column(name, [text("", variants[i].values[name]) for i in sound]) for name in params]
    styles = ["dim" if variants[i].findings else None for i in sound]
    parts: list[Any] = [f"[bold]{escape(heading)}[/bold]"]
    for block in blocks(heads, figures, columns()):
        parts += ["", _table(block, styles)]
    broken = [f"{_named(v)}: {v.findings[0].message}" for v in variants if v.findings]
    if broken:
        parts += ["", f"[bold]{len(broken)} of {len(variants)} do not hold[/bold]", *map(escape, broken)]
    print_all(*parts)


def _table(block: Sequence[Column], styles: Sequence[str | None]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in block:
        table.add_column(escape("\n".join(column.title)), justify="right", no_wrap=True, vertical="bottom")
    for i, style in enumerate(styles):
        table.add_row(*(escape(column.cells[i]) for column in block), style=style)
    return table


def _named(variant: Variant) -> str:
    """The values of its params, of those that have one."""
    return ", ".join(f"{k} = {v}" for k, v in variant.values.items() if v is not None)


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
                **({} if not variant.solved else {"solved": [_solved(s) for s in variant.solved]}),
                "cost": None if variant.report is None else variant.report.as_dict(),
                **({} if marks is None else {"front": marks[i]}),
                "findings": [{"code": d.code, "message": d.message} for d in variant.findings],
            }
            for i, variant in enumerate(variants)
        ],
    }


def _solved(solved: Solved) -> dict[str, Any]:
    """What was solved for, how far it is off, and whether that is within the tolerance."""
    return {
        "param": solved.solve.param,
        "equation": solved.solve.text,
        "left": solved.left,
        "right": solved.right,
        "residual": solved.residual,
        "relative": solved.relative,
        "tolerance": solved.solve.tolerance,
        "holds": solved.holds,
    }


def _finding(variant: Variant) -> str:
    return "; ".join(f"{d.code}: {d.message}" for d in variant.findings)
