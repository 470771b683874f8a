"""The CPU-size twin of a model (`--tiny`): same structure, small widths, as few layers as show every transition."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Any

from archc.schema import Drawer, LayerSlots, Memory, Model, stand
from archc.schema.describe import describe

DIM, VOCAB, CONTEXT, MAX_LAYERS = 128, 512, 512, 8
"""Sizes of a tiny twin: enough vocabulary for bytes, a context that exercises windows and ratios."""


def shrink(model: Model) -> Model:
    """The tiny twin: every drawer, every layer kind and every transition between kinds, in at most 8 layers."""
    from archc.drawers import drawer_class

    order = walk(model.schedule)
    small = {slots: _layer(slots) for slots in dict.fromkeys(order)}
    memories = stand([small[slots].memory for slots in order])
    fields = {
        "vocab": min(model.vocab, VOCAB),
        "dim": min(model.dim, DIM),
        "layers": len(order),
        "context": min(model.context, CONTEXT),
        "schedule": tuple(_with(small[slots], memory) for slots, memory in zip(order, memories, strict=True)),
        # float32, in which the laws are exact
        "cache": drawer_class("cache", "fp32")(),
        "precision": drawer_class("precision", "fp32")(),
    }
    for name in ("norm", "residual", "head", "mtp", "init"):
        fields[name] = _drawer(getattr(model, name))
    # Checks are left out: budgets hold for the full model.
    return model.model_copy(update=fields).completed(
        checks=(), sweeps=model.sweeps, machines=model.machines, spec_hash=model.spec_hash
    )


def _layer(slots: LayerSlots) -> LayerSlots:
    return LayerSlots(**{slot: _drawer(getattr(slots, slot)) for slot in ("attention", "ffn", "memory")})


def _with(slots: LayerSlots, memory: Memory | None) -> LayerSlots:
    return slots if slots.memory is memory else slots.model_copy(update={"memory": memory})


def _drawer(drawer: Drawer | None) -> Any:
    """A drawer with its own tiny values, inherited widths following the tiny model; its name and origin stay."""
    if drawer is None:
        return None
    values: dict[str, Any] = {}
    for name, info in describe(type(drawer)).items():
        value = getattr(drawer, name)
        if isinstance(value, Drawer):
            values[name] = _drawer(value)
        elif info.inherit == "dim":
            values[name] = min(value, DIM)
    return drawer.model_copy(update=values | drawer.tiny())


def walk(schedule: tuple[LayerSlots, ...]) -> tuple[LayerSlots, ...]:
    """The shortest run of layers with every kind and transition of a schedule, from its first kind to its last.

    Cut to 8 layers where even the shortest is longer; then kinds come before transitions.
    """
    same: dict[LayerSlots, LayerSlots] = {}
    known: dict[int, LayerSlots] = {}  # hashing a layer's drawers is slow, and most layers are the very same object
    for slots in schedule:
        if id(slots) not in known:
            known[id(slots)] = same.setdefault(slots, slots)
    pairs = {(id(a), id(b)): (a, b) for a, b in pairwise(known[id(slots)] for slots in schedule)}
    edges = tuple(pairs.values())  # in the order of the schedule, as the walk is to be the same every time
    first, last = known[id(schedule[0])], known[id(schedule[-1])]
    queue: deque[tuple[tuple[LayerSlots, ...], frozenset]] = deque([((first,), frozenset())])
    seen = {(first, frozenset())}
    while queue:
        path, done = queue.popleft()
        if len(done) == len(edges) and path[-1] == last:
            return path
        if len(path) == MAX_LAYERS:
            continue
        for edge in edges:
            if edge[0] == path[-1]:
                state = (edge[1], done | {edge})
                if state not in seen:
                    seen.add(state)
                    queue.append(((*path, edge[1]), state[1]))
    return tuple(same)[:MAX_LAYERS]
