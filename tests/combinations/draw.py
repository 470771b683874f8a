"""Random specs over all slots and kinds, drawn from the registries alone: a kind that joins is drawn without an edit.

Kinds are drawn first (`Choice`), then their fields, each by its type, limits and unit. Whether the drawers go together
is not asked. What a person would not get wrong is steered, and nothing else:

- Sizes are small. Channels are even, heads and groups are numbers that divide each other (`NUMBERS`), `UP_TO` another
  field of the drawer where that one was drawn. Numbers of tokens keep their defaults' proportions. `POWERS_OF_TWO` are
  that where what needs them is on.
- Fields that follow others (`inherit`, defaults that are computed) are mostly left out, widths and vocabularies that
  all drawers share always; so are lists that may be left out, and names of files.
- A field that begins with the name of another (`shared_gate`) is left out where that one (`shared`) is off. One that
  the drawer around it has, too (`rope_dim` is `dim` of its `rope`), is left out inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from random import Random

from archc.drawers import drawer_class, kinds
from archc.schema import LAYER_SLOTS
from archc.schema.describe import FieldInfo, describe
from archc.schema.model import ModelFields
from archc.schema.slots import slot_names

Kind = tuple[str, str]
"""A slot and one of its kinds."""

WITHOUT = {"hardware"}
"""Slots that say where a model runs, and nothing of the model."""
SMALL = {"layers": (2, 4), "vocab": (37, 90), "context": (64, 200)}
"""Fields of the model: the least and the most."""
DIMS = (16, 21, 24, 40)
"""Widths of the model: most of them twice what numbers of heads divide."""
NUMBERS: dict[str, tuple[int, ...]] = {
    "heads": (2, 4, 6),
    "kv_heads": (1, 2),
    "rope_dim": (2, 4, 6),
    "dim": (2, 4, 6),
    "groups": (1, 2, 4),
    "out_groups": (1, 2, 4),
    "keep_groups": (1, 2, 3),
    "experts": (8, 12),
    "active": (1, 2),
    "window": (1, 5, 7, 13),
    "original": (16, 32),
    "rows": (3, 20, 50),
    "block": (1, 2, 3),
    "blocks": (4, 6),
}
"""Numbers by name, where numbers must go together."""
FEW = 8
"""A default of so many tokens is small as it is."""
CHANNELS = (6, 8, 10, 12, 14)
MADE_FOR: dict[Kind, Kind] = {
    ("cache", "v4_fp8"): ("attention", "windowed"),
    ("cache", "mla_fp8"): ("attention", "mla"),
}
"""Kinds that do nothing without another."""
UP_TO = {"keep_groups": "groups", "kv_heads": "heads"}
"""Fields that are at most another field of the same drawer."""
POWERS_OF_TWO = {"head_dim": "rounding"}
"""Fields that a person makes a power of two where another field of the same drawer is on."""


@dataclass(frozen=True)
class Choice:
    """A kind for a slot, and choices for those of its fields that are slots; None: `none`. Others are left out."""

    slot: str
    kind: str
    inner: dict[str, Choice | None] = field(default_factory=dict)

    def kinds(self) -> Iterator[Kind]:
        """It and all in it."""
        yield self.slot, self.kind
        for choice in self.inner.values():
            if choice is not None:
                yield from choice.kinds()


@dataclass(frozen=True)
class Structure:
    """The kinds of a model. ``layers`` holds the drawers of a slot that may differ by layer, and which of them stands
    in each layer (None: none does).
    """

    fields: dict[str, Choice | None]
    words: dict[str, str]
    layers: dict[str, tuple[tuple[Choice, ...], tuple[int | None, ...]]]

    def kinds(self) -> frozenset[Kind]:
        """All kinds in it; a word of the model's own fields is a kind, too."""
        choices = [c for c in self.fields.values() if c is not None]
        choices += [c for drawers, _ in self.layers.values() for c in drawers]
        return frozenset(k for c in choices for k in c.kinds()) | frozenset(self.words.items())


@cache
def universe() -> tuple[Kind, ...]:
    """Every kind there is to draw, and every word of the model's own fields."""
    found = [(slot, kind) for slot in sorted(slot_names()) if slot not in WITHOUT for kind in kinds(slot)]
    words = [(name, str(w)) for name, info in describe(ModelFields).items() if info.shape == "word" for w in info.words]
    return tuple(found + words)


@cache
def slots_in(slot: str, kind: str) -> frozenset[str]:
    """The slots in a kind and in what may stand there, those of whole layers left out."""
    inner = {i.slot for i in describe(drawer_class(slot, kind)).values() if i.slot and i.slot not in LAYER_SLOTS}
    return frozenset(inner.union(*(slots_in(s, k) for s in inner - {slot} for k in kinds(s))))


@cache
def alone(slot: str) -> bool:
    """Whether a model has one drawer of a slot at most: it is a field of models and of no drawer."""
    holders = [drawer_class(s, k) for s, k in universe() if s in slot_names()]
    return slot not in LAYER_SLOTS and not any(i.slot == slot for cls in holders for i in describe(cls).values())


def structure(rng: Random, wanted: Collection[Kind] = ()) -> Structure:
    """Random kinds of a model; rather those that are wanted than others."""
    n = rng.randint(*SMALL["layers"])
    fields, words = {}, {}
    for name, info in describe(ModelFields).items():
        if info.shape == "slot" and info.slot not in WITHOUT:
            none = info.optional and rng.random() < 0.3
            fields[name] = None if none else _choice(rng, info.slot, wanted)
        elif info.shape == "word":
            liked = [w for w in info.words if (name, w) in wanted] or list(info.words)
            words[name] = rng.choice(liked)
    chosen = {k for choice in fields.values() if choice is not None for k in choice.kinds()}
    needed = {MADE_FOR[kind] for kind in chosen & MADE_FOR.keys()}
    layers = {}
    for slot in LAYER_SLOTS:
        if not kinds(slot) or (slot == "memory" and rng.random() < 0.4):
            continue
        # The first is one that something else needs
        first = [_choice(rng, slot, wanted, kind=kind) for s, kind in needed if s == slot]
        drawers = (*first, *(_choice(rng, slot, wanted) for _ in range(rng.randint(1, min(n, 3)) - len(first))))
        # Each somewhere, then any
        order: list[int | None] = [*range(len(drawers)), *(rng.randrange(len(drawers)) for _ in range(n))][:n]
        rng.shuffle(order)
        if slot == "memory" or rng.random() < 0.1:
            order = [i if order.count(i) == 1 or rng.random() < 0.7 else None for i in order]
        layers[slot] = drawers, tuple(order)
    return Structure(fields, words, layers)


def _choice(rng: Random, slot: str, wanted: Collection[Kind], *, depth: int = 0, kind: str = "") -> Choice:
    known = kinds(slot)
    slots = {s for s, _ in wanted}
    liked = [k for k in known if (slot, k) in wanted or slots_in(slot, k) & slots]
    kind = kind or rng.choice(liked if liked and rng.random() < 0.8 else known)
    inner: dict[str, Choice | None] = {}
    for name, info in describe(drawer_class(slot, kind)).items():
        if info.shape != "slot" or depth > 3:
            continue
        # Layers inside of drawers (modules of prediction) are mostly those of the model
        often = 0.3 if info.slot in LAYER_SLOTS or info.inherit else 0.6
        if info.slot in slots or any(slots_in(info.slot, k) & slots for k in kinds(info.slot)):
            often = 0.8
        if info.required or rng.random() < often:
            none = info.optional and rng.random() < 0.15
            inner[name] = None if none else _choice(rng, info.slot, wanted, depth=depth + 1)
    return Choice(slot, kind, inner)


# --- text ----------------------------------------------------------------------------------------
def spec(rng: Random, what: Structure, name: str) -> str:
    """The text of a spec with these kinds, all else drawn."""
    sizes = {n: rng.randint(*SMALL[n]) for n in ("vocab", "context")} | {"dim": rng.choice(DIMS)}
    sizes["layers"] = len(next(iter(what.layers.values()))[1])
    lines = [f"{n} = {v}" for n, v in (sizes | what.words).items()]
    for field_name, choice in what.fields.items():
        lines.append(f"{field_name} = {'none' if choice is None else _text(rng, choice)}")
    plan: list[str] = []
    for slot, (drawers, order) in what.layers.items():
        if len(drawers) == 1 and None not in order and rng.random() < 0.5:
            lines.append(f"{slot} = {_text(rng, drawers[0])}")
            continue
        labels = [f"{choice.kind}_{i}" for i, choice in enumerate(drawers)]
        lines += [f"{slot} {label} = {_text(rng, choice)}" for label, choice in zip(labels, drawers, strict=True)]
        plan.append(f"{slot} = [{', '.join('none' if i is None else labels[i] for i in order)}]")
    lines += ["schedule {", *plan, "}"] if plan else []
    body = "\n".join(f"  {line}" for line in lines)
    return f"arch 1\nmodel {name} {{\n{body}\n}}\n"


def _text(rng: Random, choice: Choice, without: Collection[str] = ()) -> str:
    infos = describe(drawer_class(choice.slot, choice.kind))
    shrink = rng.choice((4, 8))
    values: dict[str, str] = {}
    for name, info in infos.items():
        off = not info.required and any(name.startswith(f"{n}_") and _off(values, i) for n, i in infos.items())
        if info.shape == "slot":
            if name in choice.inner and not off:
                inner = choice.inner[name]
                outer = {n.removeprefix(f"{name}_") for n in infos if n.startswith(f"{name}_")}
                values[name] = "none" if inner is None else _text(rng, inner, outer)
        elif not off and name not in without and _given(rng, info):
            most = min([_count(values, infos[n]) for n in [UP_TO.get(name)] if n in infos], default=1 << 30)
            values[name] = _value(rng, info, shrink, most)
    for name, switch in POWERS_OF_TWO.items():
        if name in values and switch in infos and not _off(values, infos[switch]):
            values[name] = "8"
    return f"{choice.kind} {{ {', '.join(f'{n} = {v}' for n, v in values.items())} }}" if values else choice.kind


def _off(values: dict[str, str], info: FieldInfo) -> bool:
    """Whether a field is what switches off, written or not."""
    return values.get(info.name, str(info.default or "none")) in {"0", "false", "none"}


def _count(values: dict[str, str], info: FieldInfo) -> int:
    """A number of a drawer, written or not."""
    return int(values.get(info.name, info.default or 1))


def _given(rng: Random, info: FieldInfo) -> bool:
    """Whether a spec says something about a field that it may leave out."""
    if info.required:
        return True
    if info.shape == "str" or (info.inherit and info.shape == "int") or (info.item and info.optional):
        return False
    if info.computed or info.inherit:
        return rng.random() < (0.8 if info.unit == "channels" else 0.1)
    if info.shape == "int" and info.unit == "tokens" and (info.default or 0) > FEW:
        return True
    return rng.random() < 0.4


def _value(rng: Random, info: FieldInfo, shrink: int, most: int = 1 << 30) -> str:
    if info.optional and rng.random() < 0.2:
        return "none"
    if info.words and (info.shape == "word" or rng.random() < 0.5):
        return str(rng.choice(info.words))
    if info.item is not None:
        items = {_value(rng, info.item, shrink) for _ in range(rng.randint(1, 3))}
        return f"[{', '.join(sorted(items))}]"
    if info.shape == "bool":
        return rng.choice(("true", "false"))
    if info.shape == "int":
        return str(_whole(rng, info, shrink, most))
    if info.shape == "float":
        return f"{_real(rng, info):g}"
    return '"some"'


def _whole(rng: Random, info: FieldInfo, shrink: int, most: int) -> int:
    least = int(max(info.ge if info.ge is not None else 1, info.gt + 1 if info.gt is not None else -99))
    if info.name in NUMBERS:
        numbers: tuple[int, ...] = NUMBERS[info.name]
    elif info.unit == "tokens" and isinstance(info.default, int) and info.default > FEW:
        numbers = (info.default // shrink,)
    elif info.unit == "tokens":
        numbers = (2, 4, 8)
    elif info.unit == "channels":
        numbers = CHANNELS
    elif isinstance(info.default, int):
        numbers = (info.default, *range(least, least + 3)) if info.default <= FEW else (info.default, info.default // 4)
    else:
        numbers = tuple(range(least, least + 4))
    step = int(info.multiple_of or 1)
    fitting = [n for n in numbers if least <= n <= most and n % step == 0]
    return rng.choice(fitting or [-(-max(least, 1) // step) * step])


def _real(rng: Random, info: FieldInfo) -> float:
    usual = info.default if isinstance(info.default, float | int) and info.default else 0.25
    least = max(info.ge if info.ge is not None else -1e9, info.gt if info.gt is not None else -1e9)
    most = min(info.le if info.le is not None else 1e9, info.lt if info.lt is not None else 1e9)
    fitting = [x for x in (usual / 2, usual, 2 * usual) if least < x < most]
    return rng.choice(fitting) if fitting else least + 1.0
