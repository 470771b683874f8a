"""A figure taken apart."""

from __future__ import annotations

from typing import Any

from archc.cli._console import print_all
from archc.cost.explain import Explanation


def show(e: Explanation) -> None:
    """Prints an explanation."""
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
