"""Fields of two resolved specs that differ, and where each value came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from archc.diagnostics import Span
from archc.diff.findings import Place
from archc.schema import LAYER_SLOTS, Drawer, Model
from archc.schema.model import ModelFields

LONG, SHOWN = 8, 3
"""Entries of a list that is written as a whole, and those of a longer one that are."""

NAME = "name"
"""What a place calls the name that a drawer has in its spec."""


def places(a: Model, b: Model) -> tuple[Place, ...]:
    """Every field that differs; equal changes of several layers are one."""
    found: dict[tuple[str, str, str, str], tuple[set[int], Place]] = {}
    for place, layers in (*_of_model(a, b), *_of_layers(a, b)):
        key = (place.group, place.field, place.a, place.b)
        found.setdefault(key, (set(), place))[0].update(layers)
    return tuple(
        Place(
            group=p.group,
            layers=tuple(sorted(layers)),
            field=p.field,
            a=p.a,
            b=p.b,
            a_spans=p.a_spans,
            b_spans=p.b_spans,
        )
        for layers, p in found.values()
    )


def _of_model(a: Model, b: Model) -> Iterator[tuple[Place, tuple[int, ...]]]:
    for name in ModelFields.model_fields:
        one, other = getattr(a, name), getattr(b, name)
        if isinstance(one, Drawer) or isinstance(other, Drawer):
            yield from ((p, ()) for p in _of_drawers(name, "", one, other, _spans(a, name), _spans(b, name)))
        elif one != other:
            yield _place("model", name, one, other, _spans(a, name), _spans(b, name)), ()


def _of_layers(a: Model, b: Model) -> Iterator[tuple[Place, tuple[int, ...]]]:
    for slot in LAYER_SLOTS:
        pairs: dict[tuple[int, int], tuple[Drawer | None, Drawer | None, list[int]]] = {}
        for i, (left, right) in enumerate(zip(a.schedule, b.schedule, strict=False)):
            one, other = getattr(left, slot), getattr(right, slot)
            pairs.setdefault((id(one), id(other)), (one, other, []))[2].append(i)
        for one, other, layers in pairs.values():
            at = tuple(_spans(m, "schedule") for m in (a, b))
            yield from ((p, tuple(layers)) for p in _of_drawers(slot, "", one, other, *at))


def _of_drawers(
    group: str, path: str, a: Any, b: Any, a_spans: tuple[Span, ...], b_spans: tuple[Span, ...]
) -> Iterator[Place]:
    """Differences between what stands in one slot; ``path`` leads there from the slot of the group, with a dot."""
    if not (isinstance(a, Drawer) and isinstance(b, Drawer) and type(a) is type(b)):
        if a is not None or b is not None:
            field = path.removesuffix(".")
            yield _place(group, field, _kind(a), _kind(b), _whole(a) or a_spans, _whole(b) or b_spans)
        return
    found: list[Place] = []
    for name in type(a).model_fields:
        one, other = getattr(a, name), getattr(b, name)
        at = _spans(a, name), _spans(b, name)
        if isinstance(one, Drawer) or isinstance(other, Drawer):
            found += _of_drawers(group, f"{path}{name}.", one, other, *at)
        elif one != other:
            found.append(_place(group, path + name, one, other, *at))
    if a.label != b.label and not found:  # drawers that differ in more have other names for a reason
        found.append(_place(group, path + NAME, a.label, b.label, _whole(a), _whole(b)))
    yield from found


def _place(group: str, field: str, a: Any, b: Any, a_spans: tuple[Span, ...], b_spans: tuple[Span, ...]) -> Place:
    one, other = texts(a, b)
    return Place(group=group, field=field, a=one, b=other, a_spans=a_spans, b_spans=b_spans)


def _kind(drawer: Any) -> str:
    if not isinstance(drawer, Drawer):
        return text(drawer)
    return drawer.kind if drawer.label == drawer.kind else f"{drawer.kind} ({drawer.label})"


def _whole(drawer: Any) -> tuple[Span, ...]:
    span = drawer.origin.span if isinstance(drawer, Drawer) else None
    return () if span is None else (span,)


def _spans(drawer: Drawer, name: str) -> tuple[Span, ...]:
    return drawer.origin.fields.get(name, ())


def texts(a: Any, b: Any) -> tuple[str, str]:
    """Two values as the language writes them, of long lists only where they begin to differ."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and max(len(a), len(b)) > LONG:
        at = next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
        return _excerpt(a, at), _excerpt(b, at)
    return text(a), text(b)


def _excerpt(values: Sequence[Any], at: int) -> str:
    shown = [
        *(["..."] if at else []),
        *map(text, values[at : at + SHOWN]),
        *(["..."] if len(values) > at + SHOWN else []),
    ]
    return f"[{', '.join(shown)}] of {len(values)}"


def text(value: Any) -> str:
    """A value as the language writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(text, value))}]"
    return _kind(value) if isinstance(value, Drawer) else str(value)
