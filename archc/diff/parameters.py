"""Whether a checkpoint of one model loads into the other: parameters and buffers by name and shape."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from archc.diff.findings import Change, Finding
from archc.graph import Graph
from archc.ops import ParamSpec

LAYER = re.compile(r"^(model\.layers)\.(\d+)\.(.+)$")
AHEAD = re.compile(r"^(mtp)\.(\d+)\.(.+)$")
GROUP_OF = {"self_attn": "attention", "mlp": "ffn", "memory": "memory", "embed_tokens": "embedding", "lm_head": "head"}


class Slot(NamedTuple):
    """A parameter with its layer left open: ``model.layers.*.mlp.gate.weight``."""

    pattern: str
    group: str


class Held(NamedTuple):
    """What a checkpoint holds under a name: its shape, and how training starts it."""

    shape: tuple[int, ...]
    start: str
    role: str
    buffer: bool


Tensors = dict[Slot, dict[int, Held]]
"""By layer; -1 for what stands in none."""


def tensors(graph: Graph) -> Tensors:
    """Everything that a checkpoint of a graph's package holds."""
    found: Tensors = {}
    for p in graph.parameters():
        match = LAYER.match(p.name) or AHEAD.match(p.name)
        layer = int(match[2]) if match else -1
        pattern = f"{match[1]}.*.{match[3]}" if match else p.name
        slot = Slot(pattern, _group(pattern, p.component))
        found.setdefault(slot, {})[layer] = Held(p.spec.shape, _start(p.spec), p.spec.role, p.spec.buffer)
    return found


def _group(pattern: str, component: str) -> str:
    if pattern.startswith("mtp."):
        return "mtp"
    parts = pattern.split(".")
    named = next((GROUP_OF[part] for part in parts if part in GROUP_OF), None)
    return named or (component if component in {"norm", "residual", "embedding", "head"} else "model")


def _start(spec: ParamSpec) -> str:
    """How a parameter starts, in words."""
    if spec.init == "choices":
        return f"choices under {spec.below}"
    if spec.init == "eye":
        return "the identity"
    if spec.init == "wrapped":
        return f"places modulo {spec.below}"
    if spec.init == "turn":
        return "a one in turn"
    return f"normal, std {spec.std:g}" if spec.std is not None else str(spec.init)


def checkpoint(a: Graph, b: Graph) -> Iterator[Finding]:
    """Parameters that are only in one of two graphs, or of another shape."""
    left, right = tensors(a), tensors(b)
    yield from _whole(left, right)
    gone: dict[tuple[Slot, tuple[int, ...]], list[int]] = defaultdict(list)
    come: dict[tuple[Slot, tuple[int, ...]], list[int]] = defaultdict(list)
    reshaped: dict[tuple[Slot, tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
    for slot in {**left, **right}:
        one, other = left.get(slot, {}), right.get(slot, {})
        for layer in sorted({*one, *other}):
            if layer not in other:
                gone[slot, one[layer].shape].append(layer)
            elif layer not in one:
                come[slot, other[layer].shape].append(layer)
            elif one[layer].shape != other[layer].shape:
                reshaped[slot, one[layer].shape, other[layer].shape].append(layer)
    for (old, shape), (new, _) in _renamed(gone, come, left, right):
        layers = tuple(i for i in gone.pop((old, shape)) if i >= 0)
        del come[new, shape]
        a_name, b_name = short(old.pattern), short(new.pattern)
        yield Finding(
            level="CKPT", group=old.group, change="renamed", what=shown(shape), a=a_name, b=b_name, layers=layers
        )
    for (slot, before, after), layers in reshaped.items():
        yield _finding("reshaped", slot, layers, a=shown(before), b=shown(after))
    for (slot, shape), layers in gone.items():
        yield _finding("removed", slot, layers, a=shown(shape))
    for (slot, shape), layers in come.items():
        yield _finding("added", slot, layers, b=shown(shape))


def _whole(left: Tensors, right: Tensors) -> Iterator[Finding]:
    """Layers, and modules that predict further tokens, that are only on one side; takes them out of both."""
    for ahead in (False, True):
        one, other = (_layers(side, ahead=ahead) for side in (left, right))
        sides: tuple[tuple[Change, Tensors, set[int]], ...] = (
            ("removed", left, one - other),
            ("added", right, other - one),
        )
        for change, side, alone in sides:
            if not alone:
                continue
            count = 0
            for slot in [s for s in side if (s.group == "mtp") == ahead]:
                held = [side[slot].pop(i) for i in alone & side[slot].keys()]
                count += sum(math.prod(h.shape) for h in held if not h.buffer)
            number = f"{count:,} parameters"
            yield Finding(
                level="CKPT",
                group="mtp" if ahead else "model",
                change=change,
                what="whole modules" if ahead else "whole layers",
                a=number if change == "removed" else "",
                b=number if change == "added" else "",
                layers=tuple(sorted(alone)),
            )


def _layers(side: Tensors, *, ahead: bool) -> set[int]:
    return {i for slot, held in side.items() if (slot.group == "mtp") == ahead for i in held if i >= 0}


def starts(a: Graph, b: Graph) -> Iterator[Finding]:
    """Parameters that both have and that training starts otherwise: a matter of training alone."""
    left, right = tensors(a), tensors(b)
    changed: dict[tuple[str, str], set[str]] = {}
    for slot in left.keys() & right.keys():
        for layer in left[slot].keys() & right[slot].keys():
            one, other = left[slot][layer], right[slot][layer]
            if one.shape == other.shape and one.start != other.start:
                changed.setdefault((one.start, other.start), set()).add(short(slot.pattern))
    for (one, other), names in sorted(changed.items()):
        what = f"starting values of {_listed(names)}"
        yield Finding(level="NUMERICS", group="init", change="changed", what=what, a=one, b=other, training_only=True)


def _renamed(gone: dict, come: dict, left: Tensors, right: Tensors) -> list[tuple[tuple, tuple]]:
    """Pairs of what went and what came that are alike in group, layers, shape and role, and the only ones so alike."""

    def likes(side: dict, held: Tensors) -> dict[tuple, list[tuple]]:
        found: dict[tuple, list[tuple]] = defaultdict(list)
        for (slot, shape), layers in side.items():
            alike = (slot.group, tuple(layers), shape, held[slot][layers[0]].role, slot.pattern.rpartition(".")[2])
            found[alike].append((slot, shape))
        return found

    olds, news = likes(gone, left), likes(come, right)
    return [(olds[k][0], news[k][0]) for k in olds if len(olds[k]) == len(news.get(k, ())) == 1]


def _finding(change: Change, slot: Slot, layers: list[int], *, a: str = "", b: str = "") -> Finding:
    where = tuple(i for i in layers if i >= 0)
    return Finding(level="CKPT", group=slot.group, change=change, what=short(slot.pattern), a=a, b=b, layers=where)


def short(pattern: str) -> str:
    """A name without what the layer and its group already say: ``q_a_proj`` of ``model.layers.*.self_attn.q_a_proj``,
    and without a last ``.weight``.
    """
    return re.sub(r"^(model\.layers|mtp)\.\*\.", "", pattern).removesuffix(".weight")


def shown(shape: tuple[int, ...]) -> str:
    """``[256, 4096, 7168]``"""
    return f"[{', '.join(map(str, shape))}]"


def _listed(names: set[str]) -> str:
    """The names, the rest counted where there are more than three."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + rest
