"""The layers of a model as a picture: a column for each, its drawers as coloured cells; equal rows are drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archc.plan.runs import schedule, spans
from archc.report.subject import Subject
from archc.schema import LAYER_SLOTS

ROW = 32
"""Layers in a row of the picture."""
CELL, GAP, HEIGHT, LABEL, SPACE = 9.0, 1.0, 15.0, 66.0, 10.0
"""Width of a cell and its gap, the gap, the height of one drawer's cell, room for labels, room between rows."""
COLOURS = 10
"""Colours there are; after so many kinds they begin again, and the table beside the picture tells them apart."""

Kind = tuple[str, str]
"""(slot, name of the drawer)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A drawer of a layer: where it stands, and its colour."""

    x: float
    y: float
    colour: int
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the template draws."""

    width: float
    height: float
    cell: tuple[float, float]
    cells: tuple[Cell, ...]
    labels: tuple[tuple[float, str], ...]
    text: str
    legend: tuple[tuple[int, str, int], ...]
    """(colour, name, layers that have it)"""
    rows: tuple[tuple[str, dict[str, str]], ...]
    slots: tuple[str, ...]


def colours(subjects: list[Subject]) -> dict[Kind, int]:
    """A colour for each kind of drawer, the same in all models of the page."""
    kinds = dict.fromkeys(kind for s in subjects for layer in layers(s) for kind in layer)
    return {kind: i % COLOURS for i, kind in enumerate(kinds)}


def layers(subject: Subject) -> list[tuple[Kind, ...]]:
    """The drawers of every layer: ``("attention", "mla")``, with the kind where the spec has another name for it."""
    return [
        tuple((slot, name(d)) for slot in LAYER_SLOTS if (d := getattr(layer, slot)) is not None)
        for layer in subject.model.schedule
    ]


def name(drawer: Any) -> str:
    """``csa (windowed)``, or the kind alone."""
    return drawer.kind if drawer.label == drawer.kind else f"{drawer.label} ({drawer.kind})"


def picture(subject: Subject, palette: dict[Kind, int]) -> Picture:
    """The layers of a model, drawn."""
    every = layers(subject)
    slots = tuple(slot for slot in LAYER_SLOTS if any(kind[0] == slot for layer in every for kind in layer))
    cells: list[Cell] = []
    labels: list[tuple[float, str]] = []
    y, row_height = 0.0, len(slots) * (HEIGHT + GAP)
    for first, last, row in _rows(every):
        labels.append((y + row_height / 2, f"{first}–{last}" if last > first else str(first)))
        for i, layer in enumerate(row):
            for slot, drawer in layer:
                cells.append(
                    Cell(
                        x=round(LABEL + i * CELL, 2),
                        y=round(y + slots.index(slot) * (HEIGHT + GAP), 2),
                        colour=palette[slot, drawer],
                        title=f"layer {first + i}, {slot}: {drawer}",
                    )
                )
        y += row_height + SPACE
    counts = {kind: sum(kind in layer for layer in every) for kind in dict.fromkeys(k for x in every for k in x)}
    rows = tuple(spans(schedule(subject.model)))
    told = "; ".join(f"layers {span}: {', '.join(f'{s} {d}' for s, d in drawers.items())}" for span, drawers in rows)
    return Picture(
        width=LABEL + ROW * CELL,
        height=y - SPACE,
        cell=(CELL - GAP, HEIGHT),
        cells=tuple(cells),
        labels=tuple(labels),
        text=f"The {len(every)} layers of {subject.model.name} in order. {told}.",
        legend=tuple((palette[kind], f"{kind[0]} {kind[1]}", n) for kind, n in counts.items()),
        rows=rows,
        slots=slots,
    )


def _rows(every: list[tuple[Kind, ...]]) -> list[tuple[int, int, list[tuple[Kind, ...]]]]:
    """(first layer, last layer, one row of layers): rows that repeat the one before are folded into it."""
    found: list[tuple[int, int, list[tuple[Kind, ...]]]] = []
    for first in range(0, len(every), ROW):
        row = every[first : first + ROW]
        if found and found[-1][2] == row:
            found[-1] = (found[-1][0], first + len(row) - 1, row)
        else:
            found.append((first, first + len(row) - 1, row))
    return found
