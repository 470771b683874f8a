"""A comparison as text: what it comes to, figures, schedules, and findings by part of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from archc.cli._console import print_all
from archc.cli._cost.units import bytes_text, flops_text
from archc.cost.report import Report
from archc.diff import LEVELS, Difference, Finding, Place
from archc.diff.findings import GROUPS
from archc.plan.runs import ranges, schedule
from archc.plan.runs import spans as turns
from archc.schema import Model

MEANING = {
    "CKPT": "a checkpoint of one does not load into the other",
    "NUMERICS": "checkpoints load, and give other outputs or train otherwise",
    "COST": "the same numbers at another price",
    "TEXT": "the same model, written otherwise",
    None: "the same model, in the same words",
}


def show(found: Difference, a: Model, b: Model, cost: Report) -> None:
    """Prints a comparison."""
    from rich.markup import escape

    names = (a.name, b.name) if a.name != b.name else ("A", "B")
    counts = [f"{n} {level}" for level in LEVELS if (n := sum(f.level == level for f in found.findings))]
    title = f"[bold]{escape(a.name)} -> {escape(b.name)}[/bold]: {MEANING[found.level]}"
    parts: list[Any] = [title, *([f"[dim]findings: {', '.join(counts)}[/dim]"] if counts else [])]
    if not found.findings:
        print_all(*parts)
        return
    parts += [
        "",
        f"[dim]{_workload(cost)}[/dim]",
        _figures(names, found, training=cost.workload.mode == "train"),
        "",
        _schedules(names, a, b),
    ]
    for group in GROUPS:
        rows = [f for f in found.findings if f.group == group]
        if rows:
            parts += ["", f"[bold]{group}[/bold]", _group(rows, [p for p in found.places if p.group == group])]
    print_all(*parts)


# --- figures -------------------------------------------------------------------------------------
def _count(n: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:,.2f} {unit}"
    return f"{n:,.0f}"


def _seconds(n: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if n >= size:
            return f"{n / size:,.3g} {unit}"
    return f"{n:.3g} s"


def _percent(n: float) -> str:
    return f"{100 * n:.1f} %"


def _number(n: float) -> str:
    return f"{n:,.4g}"


def _time(key: str) -> Callable[[float], str]:
    """How a figure of the time of a step is written."""
    if key.startswith("time.parts.") or (key.endswith("_s") and not key.endswith("per_s")):
        return _seconds
    return {"time.mfu": _percent, "time.flops_per_device": flops_text}.get(key, _number)


HEADLINES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("parameters", "params.total", _count),
    ("active a token", "params.active", _count),
    ("MTP parameters", "params.mtp", _count),
    ("FLOPs a token, ideal", "flops.ideal.forward_per_token", flops_text),
    ("the same, executed", "flops.executed.forward_per_token", flops_text),
    ("to train on one, ideal", "flops.ideal.train_per_token", flops_text),
    ("the same, executed", "flops.executed.train_per_token", flops_text),
    ("cache a token", "kv_cache.bytes_per_token", bytes_text),
    ("cache a row, fixed", "kv_cache.bytes_per_sequence_fixed", bytes_text),
    ("cache of the workload", "kv_cache.bytes_total", bytes_text),
)
"""Figures that are shown where they differ: what they are, their key, how they are written."""

SECTIONS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("parameters", "params.by_component.", _count),
    ("FLOPs, ideal", "flops.ideal.by_component.", flops_text),
    ("FLOPs, executed", "flops.executed.by_component.", flops_text),
    ("cache", "kv_cache.by_component.", bytes_text),
    ("memory of a device", "memory.per_device.", bytes_text),
    ("memory of all devices", "memory.", bytes_text),
    ("time", "time.", _number),
)
"""Families of figures, likewise: the title, what their keys begin with, how they are written."""


def _workload(report: Report) -> str:
    w = report.workload
    what = {
        "train": f"training, {w.seq:,} tokens a row",
        "prefill": f"prefill, {w.seq:,} tokens a row, {w.context:,} in the end",
        "decode": f"decoding token {w.context:,} of a row" if w.seq == 1 else f"decoding {w.seq:,} tokens a row",
    }[w.mode]
    return f"{what}, batch {w.batch:,}; what is equal is left out"


def _figures(names: tuple[str, str], found: Difference, *, training: bool) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in (*names, "change", ""):
        table.add_column(column, justify="right", overflow="fold")
    for title, key, shown in HEADLINES:
        if key in found.deltas and (training or "train_per_token" not in key):
            table.add_row(title, *_row(*found.deltas[key], shown))
    done = {key for _, key, _ in HEADLINES}
    for title, start, shown in SECTIONS:
        keys = [k for k in found.deltas if k.startswith(start) and k not in done and not _repeats(k, found)]
        done.update(keys)
        if keys:
            table.add_section()
            table.add_row(f"[dim]{title}[/dim]")
        for key in keys:
            unit = _time(key) if start == "time." else shown
            name = key.removeprefix(start).replace("weights_by_format.", "  in ").replace("parts.", "step: ")
            table.add_row(f"  {name}", *_row(*found.deltas[key], unit))
    return table if table.row_count else "[dim]the same figures[/dim]"


def _repeats(key: str, found: Difference) -> bool:
    """Whether others say it: a component executes what is ideal on both sides, memory is told by other parts."""
    if key.startswith(("memory.devices", "memory.stage", "memory.activations_by_component", "memory.kv_cache_by_tier")):
        return True
    ideal = found.deltas.get(key.replace("executed", "ideal", 1))
    return key.startswith("flops.executed.") and found.deltas[key] == ideal


def _row(a: float | None, b: float | None, shown: Callable[[float], str]) -> tuple[str, str, str, str]:
    one, other = ("-" if not n else shown(n) for n in (a, b))
    if a is None or b is None:
        return one, other, "", "new" if a is None else "gone"
    change = f"{'+' if b > a else '-'}{shown(abs(b - a))}"
    return one, other, change, _share(a, b)


def _share(a: float, b: float) -> str:
    if not a:
        return "new"
    return f"{100 * (b - a) / a:+.1f} %" if b < 10 * a else "> 10 x"


# --- schedules -----------------------------------------------------------------------------------
def _schedules(names: tuple[str, str], a: Model, b: Model) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    one, other = (
        f"{m.layers} layers: {'; '.join(f'{span} {_mixers(d)}' for span, d in turns(schedule(m)))}" for m in (a, b)
    )
    rows = zip(names, (one, other), strict=True) if one != other else [("both", one)]
    for name, text in rows:
        table.add_row(escape(name), escape(text))
    return table


def _mixers(drawers: dict[str, str]) -> str:
    return ", ".join(drawers.values())


# --- findings ------------------------------------------------------------------------------------
SIGNS = {"added": "+", "removed": "-", "reshaped": "~", "renamed": "=", "changed": ""}


def _group(found: list[Finding], places: list[Place]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(max_width=18, overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    before = ("", "")
    for level, where, text in _lines(found):
        same = before == (level, where)
        table.add_row(f"  {level if level != before[0] else '':8}", "" if same else where, escape(text))
        before = level, where
    places = list(_given(places))
    for place in places:
        spans = [str(s[0]) if s else "default" for s in (place.a_spans, place.b_spans)]
        at = f", at {' -> '.join(spans)}" if place.a_spans or place.b_spans else ""
        title = f"  [dim]{'set by' if place is places[0] else '':8}[/dim]"
        field = f"{place.field} " if place.field else ""
        text = f"{field}{_first(place.a)} -> {_first(place.b)}{at}"
        table.add_row(title, f"[dim]{ranges(place.layers)}[/dim]", f"[dim]{escape(text)}[/dim]")
    return table


def _given(places: list[Place]) -> Iterator[Place]:
    """Fields that a spec sets; those that follow from others of the same layers are told with these."""
    said = [p for p in places if p.a_spans or p.b_spans]
    for place in places:
        follows = any(not p.layers or not place.layers or {*p.layers} & {*place.layers} for p in said)
        if place in said or not follows:
            yield place


def _lines(found: Iterable[Finding]) -> Iterator[tuple[str, str, str]]:
    """(level, layers, text) of findings; parameters that came or went in the same layers share a line."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for f in found:
        where = f"module {ranges(f.layers)}" if f.group == "mtp" and f.layers else ranges(f.layers)
        key = (f.level, where, SIGNS[f.change] if f.change in {"added", "removed"} else f"{len(lines)}")
        lines.setdefault(key, []).append(_text(f))
    for (level, where, sign), texts in lines.items():
        yield level, where, f"{sign} {', '.join(texts)}" if sign in {"+", "-"} else texts[0]


def _text(f: Finding) -> str:
    what = f.what.removeprefix("self_attn.").removeprefix("mlp.")
    if f.change in {"added", "removed"}:
        return f"{what}{':' if what.startswith('whole') else ''} {f.a or f.b}"
    if f.change in {"reshaped", "renamed"}:
        one, other = (x.removeprefix("self_attn.").removeprefix("mlp.") for x in (f.a, f.b))
        return f"{SIGNS[f.change]} {what} {one} -> {other}"
    values = f": {f.a} -> {f.b}" if f.a != f.b and f.what != "documentation" else ""
    note = " (training and drafts only)" if f.group == "mtp" else " (training only)"
    return f"{what}{values}{note if f.training_only else ''}"


def _first(text: str) -> str:
    """The first line of a text, marked where there are more."""
    head, line, _ = (text or "none").partition("\n")
    return f"{head} ..." if line else head
