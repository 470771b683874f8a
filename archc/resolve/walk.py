"""Every drawer of a resolved model, nested ones included."""

from __future__ import annotations

from collections.abc import Iterator

from archc.schema import LAYER_SLOTS, Drawer, Model


def drawers(model: Model) -> Iterator[Drawer]:
    """The model's own slots, those of its layers, and the drawers in their slots at any depth; each once."""
    layers = {id(layer): layer for layer in model.schedule}.values()
    seen: set[int] = set()
    for drawer in (model, *(getattr(layer, slot) for layer in layers for slot in LAYER_SLOTS)):
        yield from _parts(drawer, seen)


def _parts(drawer: Drawer | None, seen: set[int]) -> Iterator[Drawer]:
    """A drawer and the drawers in its slots, at any depth, but for those seen before."""
    if drawer is not None and id(drawer) not in seen:
        seen.add(id(drawer))
        yield drawer
        for name in type(drawer).model_fields:
            value = getattr(drawer, name)
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Drawer):
                    yield from _parts(item, seen)
