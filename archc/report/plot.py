"""Plots with two logarithmic axes: where lines, markers and ticks stand. A template draws them.

Not a charting library: matplotlib is no dependency of archc, and its pictures have the colours and letter sizes of one
screen, where these follow the reader's (light or dark, phone or desktop).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from archc.report.number import Number, Style

WIDTH, HEIGHT = 360.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 72.0, 20.0, 10.0, 26.0
"""Room for the labels of ticks, in units of the picture: a phone shows about one in a pixel."""
MOST_X, MOST_Y = 6, 7
"""Ticks of an axis at most: so many labels stand side by side without touching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line: its name, the number of its colour, and (x, figure) of each marker."""

    name: str
    colour: int
    points: tuple[tuple[float, Number], ...]
    hollow: frozenset[float] = frozenset()
    """Places whose markers are not filled: what cannot be, such as a batch that no memory holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A marker and where it stands."""

    x: float
    y: float
    at: float
    number: Number
    hollow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A line as the template draws it."""

    series: Series
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot as the template draws it. ``columns`` and ``rows`` are its figures as a table."""

    name: str
    title: str
    note: str
    text: str
    x_title: str
    drawn: tuple[Drawn, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Number | None, ...]], ...]
    roof: str = ""
    size: tuple[float, float] = (WIDTH, HEIGHT)
    frame: tuple[float, float, float, float] = field(default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis from ``low`` to ``high``, drawn between two ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + part * (self.end - self.start), 2)


def ticks(low: float, high: float, base: int, most: int) -> list[float]:
    """Powers of ``base`` from below ``low`` to above ``high``, as few steps apart as ``most`` ticks allow; between
    powers of ten also 2 and 5 of them, where there is room.
    """
    if base == 10 and high / low < 100:
        found = [
            m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
        ]
        first = max([i for i, t in enumerate(found) if t <= low * (1 + 1e-9)], default=0)
        last = min([i for i, t in enumerate(found) if t >= high * (1 - 1e-9)], default=len(found) - 1)
        last = max(last, first + 1)
        if last - first < most:
            return found[first : last + 1]
    first, last = (f(math.log(x, base) + d) for f, x, d in ((math.floor, low, 1e-9), (math.ceil, high, -1e-9)))
    last = max(last, first + 1)
    step = next(s for s in (1, 2, 3, 4, 5, 6, 8, 10, 20, 40) if math.ceil((last - first) / s) < most)
    return [float(base) ** e for e in range(first, first + step * math.ceil((last - first) / step) + 1, step)]


def plot(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    x_style: Style,
    y_style: Style,
    y_base: int = 10,
    x_base: int = 2,
    note: str = "",
    roof: Sequence[tuple[float, float]] = (),
) -> Plot | None:
    """A plot of some series; None where there is nothing to show. ``roof`` is a line behind them."""
    points = [(x, n.value) for s in series for x, n in s.points if n.value > 0]
    if not points:
        return None
    xs, ys = ([p[i] for p in (*points, *roof)] for i in (0, 1))
    x_ticks, y_ticks = ticks(min(xs), max(xs), x_base, MOST_X), ticks(min(ys), max(ys), y_base, MOST_Y)
    x_axis = Axis(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y_axis = Axis(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    drawn = []
    for s in series:
        marks = tuple(
            Mark(x=x_axis(x), y=y_axis(n.value), at=x, number=n, hollow=x in s.hollow)
            for x, n in s.points
            if n.value > 0
        )
        drawn.append(Drawn(series=s, path=_path((m.x, m.y) for m in marks), marks=marks))
    places = sorted({x for s in series for x, _ in s.points})
    figures = [dict(s.points) for s in series]
    rows = tuple((x_style(x), tuple(f.get(x) for f in figures)) for x in places)
    told = " ".join(
        f"{s.name}: {s.points[0][1].text} at {x_style(s.points[0][0])}, {s.points[-1][1].text} at"
        f" {x_style(s.points[-1][0])}."
        for s in series
        if s.points
    )
    return Plot(
        name=name,
        title=title,
        note=note,
        text=f"{title}, over {x_title}. {told}",
        x_title=x_title,
        drawn=tuple(drawn),
        x_ticks=tuple((x_axis(t), _short(x_style(t))) for t in x_ticks),
        y_ticks=tuple((y_axis(t), _short(y_style(t))) for t in y_ticks),
        columns=tuple(s.name for s in series),
        rows=rows,
        roof=_path((x_axis(x), y_axis(y)) for x, y in roof),
    )


def _path(points: object) -> str:
    found = [f"{x:g},{y:g}" for x, y in points]  # type: ignore[attr-defined]
    return f"M{' L'.join(found)}" if len(found) > 1 else ""


def _short(text: str) -> str:
    """A label without decimals that say nothing: ``4.00 KiB`` is ``4 KiB``."""
    head, dot, tail = text.partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    return head + tail[len(digits) :] if dot and not digits.strip("0") else text
