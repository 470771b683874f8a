"""A figure taken apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archc.cli._console import print_all
from archc.cli._cost.units import seconds_text
from archc.cost.explain import Explanation


def _number(n: float) -> str:
    """Of parts of bytes a tenth at most: they are means."""
    return f"{round(n, 1) if abs(n) >= 100 else n:,}"


def show(e: Explanation) -> None:
    """Prints an explanation."""
    from rich.table import Table

    of_time = e.key.endswith("_s") or e.key.startswith("time.parts.")
    text: Callable[[float], str] = seconds_text if of_time else _number
    value = text(e.value) if isinstance(e.value, int | float) else e.value
    parts: list[Any] = [f"[bold]{e.key}[/bold] = {value}", ""]
    if e.terms:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("term", "count", "one of them", "together"):
            table.add_column(column, justify="right" if column in ("count", "together") else "left", overflow="fold")
        for term in e.terms:
            table.add_row(term.what, f"{term.count:,}", term.formula.replace("[", "\\["), text(term.total))
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
