"""Figures of the cost report as a page shows them: rounded for people, whole for those who check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from archc.report.subject import Subject

SPACE = "\N{NO-BREAK SPACE}"


class Number(NamedTuple):
    """A figure: what is shown, and where it stands in the JSON of which `archc cost`."""

    text: str
    key: str
    value: float
    spec: int
    at: str

    @property
    def exact(self) -> str:
        """The whole figure, for a tool tip."""
        return f"{self.value:,}"


class Word(NamedTuple):
    """What the report says in a word: the layout of a cache, what bounds the time."""

    text: str
    key: str
    value: str
    spec: int
    at: str
    exact: str = ""


class Change(NamedTuple):
    """How a figure differs from that of the first model: in percent of the latter, or how many times it is that."""

    text: str
    key: str
    spec: int
    at: str


Style = Callable[[float], str]


def count(n: float) -> str:
    """``671.03 B``"""
    return _scaled(n, (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)), "")


def times(n: float) -> str:
    """``12.3``, ``622 K``: three digits."""
    for unit, one in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= one:
            return f"{n / one:.3g}{SPACE}{unit}"
    return f"{n:.3g}"


def flops(n: float) -> str:
    """``46.13 GFLOP``"""
    return _scaled(n, SI, "FLOP")


def size(n: float) -> str:
    """``6.72 KiB``"""
    return _scaled(n, (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)), "B")


def seconds(n: float) -> str:
    """``12.30 ms``"""
    for unit, one in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if n >= one:
            return f"{n / one:,.2f}{SPACE}{unit}"
    return f"{n:g}{SPACE}s"


def rate(n: float) -> str:
    """``1,234.5``"""
    return f"{n:,.1f}"


def share(n: float) -> str:
    """``41.2 %``"""
    return f"{100 * n:.1f}{SPACE}%"


def plain(n: float) -> str:
    """``1,234.57``"""
    return f"{n:,}" if isinstance(n, int) else f"{n:,.2f}"


SI = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def _scaled(n: float, units: tuple[tuple[str, float], ...], unit: str) -> str:
    for prefix, one in units:
        if n >= one:
            return f"{n / one:,.2f}{SPACE}{prefix}{unit}"
    return f"{n:,.4g}{SPACE}{unit}".strip()


def style_of(key: str) -> Style:
    """How the figure at a key is written."""
    section, _, rest = key.partition(".")
    if key in {"memory.devices", "memory.stage"}:
        return plain
    if section in {"memory", "kv_cache"}:
        return size
    if section == "flops":
        return flops
    if section == "time":
        last = rest.rpartition(".")[2]
        if last.endswith("_s") and not last.endswith("per_s"):
            return seconds
        if rest.startswith("parts."):
            return seconds
        return {"mfu": share, "tokens_per_s": rate, "flops_per_device": flops}.get(last, plain)
    return count


def number(subject: Subject, key: str, **changes: Any) -> Number | None:
    """The figure at a key of a model's report under the page's workload with some changes; None where it has none."""
    value: Any = subject.report(**changes)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return Number(style_of(key)(value), key, value, subject.index, subject.words(**changes))


def word(subject: Subject, key: str) -> Word | None:
    """The word at a key of a model's report; None where it has none. Yes and no are words."""
    value: Any = subject.report()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return Word(value, key, value, subject.index, subject.words()) if isinstance(value, str) else None


def change(n: Number | Word | None, first: Number | Word | None) -> Change | None:
    """How a figure differs from the first model's; None where there is nothing to compare with."""
    if not (isinstance(n, Number) and isinstance(first, Number)) or n.spec == first.spec or not first.value:
        return None
    ratio = n.value / first.value
    percent = "same" if ratio == 1 else f"{100 * (ratio - 1):+.1f}{SPACE}%"
    text = f"×{times(ratio)}" if ratio >= 10 else percent
    return Change(text, n.key, n.spec, n.at)
