"""The comparison of two planned models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from archc.diff.fields import NAME, places
from archc.diff.findings import GROUPS, LEVELS, Difference, Finding, Level, Place, Side
from archc.diff.numerics import numerics
from archc.diff.parameters import checkpoint, starts
from archc.resolve.walk import drawers
from archc.schema import Cache

PRICES = ("precision", "optimizer", "hardware")
"""Slots that only the cost of a model depends on: a package holds nothing of them."""

WIDTHS = ("dim", "vocab", "layers", "norm_placement")
"""Fields of the model that ops of every group may follow from."""


def diff(a: Side, b: Side, costs: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})) -> Difference:
    """All that differs between two models; ``costs`` are their cost reports under one workload, as plain data."""
    differing = places(a.model, b.model)
    found = [*checkpoint(a.graph, b.graph), *_forwards(numerics(a.graph, b.graph), differing)]
    found += [*starts(a.graph, b.graph), *_beside_the_graph(a, b, differing)]
    told = [replace(f, places=_behind(f, differing)) for f in found]
    said = [p for f in told for p in f.places]
    told += [_of(p, "TEXT") for p in differing if not any(_covers(other, p) for other in said)]
    told += _texts(a, b, told)
    told.sort(key=lambda f: (LEVELS.index(f.level), GROUPS.index(f.group)))
    return Difference(findings=tuple(told), places=differing, deltas=_deltas(*costs))


def _forwards(found: Iterable[Finding], differing: tuple[Place, ...]) -> Iterator[Finding]:
    """The findings, those of drawers of different kinds put together: another forward is not told op by op."""
    kinds = [p for p in differing if not p.field]
    told: set[Place] = set()
    for finding in found:
        whole = [p for p in kinds if p.group == finding.group and _overlap(p.layers, finding.layers)]
        rest = set(finding.layers).difference(*(p.layers for p in whole)) if all(p.layers for p in whole) else set()
        if not whole or rest:
            yield replace(finding, layers=tuple(sorted(rest)))
        for place in whole:
            if place not in told:
                told.add(place)
                yield _of(place, "NUMERICS", training_only=finding.group == "mtp")


def _beside_the_graph(a: Side, b: Side, differing: tuple[Place, ...]) -> Iterator[Finding]:
    """Findings of fields that no op holds."""
    for place in differing:
        level: Level | None = None
        training = False
        if place.group in PRICES or (place.group, place.field) in (("model", "context"), ("memory", "placement")):
            level = "COST"
        elif place.group == "cache":
            level = "COST" if _rounding(a) == _rounding(b) else "NUMERICS"
        elif place.group == "mtp" and place.field == "weight":
            level, training = "NUMERICS", True
        if level is not None and not _named(place):
            yield _of(place, level, training_only=training)


def _of(place: Place, level: Level, *, training_only: bool = False) -> Finding:
    return Finding(
        level=level,
        group=place.group,
        change="changed",
        what=place.field or place.group,
        a=place.a,
        b=place.b,
        layers=place.layers,
        training_only=training_only,
        places=(place,),
    )


def _rounding(side: Side) -> str:
    """The layout of the cache where it rounds what it stores, empty where it keeps numbers as they are made: a layout
    that no store knows a packing for is never narrower than what a package runs in.
    """
    cache: Cache = side.model.cache
    packed = (s.packing for _, _, s in side.graph.states() if s.packing is not None)
    return cache.kind if any(p.layout == cache.kind for p in packed) else ""


def _behind(finding: Finding, differing: tuple[Place, ...]) -> tuple[Place, ...]:
    """The fields that a finding follows from: those of its own group and layers, else widths of the model."""
    if finding.places:
        return finding.places
    if finding.group == "model" and finding.layers and finding.level == "CKPT":
        return tuple(p for p in differing if (p.group, p.field) == ("model", "layers"))
    own = (p for p in differing if p.group == finding.group and not _named(p))
    near = tuple(p for p in own if _overlap(p.layers, finding.layers))
    wide = tuple(p for p in differing if p.group == "model" and p.field in WIDTHS)
    return near or wide or tuple(p for p in differing if p.group not in PRICES and not _named(p))


def _named(place: Place) -> bool:
    """Whether it is only about what a drawer is called."""
    return place.field.rpartition(".")[2] == NAME


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return not a or not b or not set(a).isdisjoint(b)


def _covers(said: Place, place: Place) -> bool:
    """Whether a field was told of: itself, or one whose values stand in the very same lines (an inherited value)."""
    lines = (said.a_spans[:1], said.b_spans[:1])
    same = (said.group, said.field) == (place.group, place.field)
    return same or (any(lines) and lines == (place.a_spans[:1], place.b_spans[:1]))


def _texts(a: Side, b: Side, found: list[Finding]) -> Iterator[Finding]:
    """What a text says beyond the resolved values."""
    said = bool(found)
    for what, one, other in (
        ("name", a.model.name, b.model.name),
        ("documentation", a.model.doc, b.model.doc),
        ("params", _params(a), _params(b)),
    ):
        if one != other:
            said = True
            yield _of(_on_the_whole(a, b, what, one, other), "TEXT")
    if not said and _sources(a) != _sources(b):
        yield _of(_on_the_whole(a, b, "comments, layout or spelling", "", ""), "TEXT")


def _on_the_whole(a: Side, b: Side, what: str, one: str, other: str) -> Place:
    spans = [() if s.model.origin.span is None else (s.model.origin.span,) for s in (a, b)]
    return Place(group="model", field=what, a=one, b=other, a_spans=spans[0], b_spans=spans[1])


def _params(side: Side) -> str:
    return ", ".join(f"{name} = {value}" for name, value in side.model.params)


def _sources(side: Side) -> frozenset[str]:
    """The texts that a model's values stand in."""
    spans = [
        span
        for drawer in drawers(side.model)
        for span in (drawer.origin.span, *(s for chain in drawer.origin.fields.values() for s in chain))
    ]
    return frozenset(span.source.text for span in spans if span is not None)


def _deltas(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """The figures of two cost reports that differ, by dotted key; None where only one report has it."""
    left, right = dict(_figures(a, "")), dict(_figures(b, ""))
    return {k: (left.get(k), right.get(k)) for k in {**left, **right} if left.get(k) != right.get(k)}


def _figures(data: Mapping[str, Any], path: str) -> Iterator[tuple[str, float]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{path}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "format_version":
            yield path + key, value
