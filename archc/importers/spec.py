"""What an importer describes, and how that is written as a spec for a person to read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import TypeAlias

from archc.record import dataclass

WIDTH = 100
"""Drawers that fit into a line of this width stand on one."""

_INDENT = "  "
_RESERVED = frozenset({
    "and",
    "arch",
    "as",
    "at",
    "by",
    "check",
    "else",
    "extends",
    "false",
    "for",
    "import",
    "in",
    "let",
    "none",
    "not",
    "or",
    "param",
    "rest",
    "schedule",
    "solve",
    "sweep",
    "true",
    "within",
})  # fmt: skip
"""Words of the language that cannot name a model."""

Value: TypeAlias = "int | float | str | bool | Tokens | Drawer"
"""What a field may hold; a str is a word of the language."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens, written in the largest binary unit (Ki, Mi) that it is a multiple of."""

    count: int


@dataclass(frozen=True, slots=True)
class Drawer:
    """`kind { fields }`."""

    kind: str
    fields: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layers:
    """What fills a slot: drawers by name, and the name that every layer uses. One drawer needs neither.

    ``ahead`` are drawers that only modules for further tokens use.
    """

    drawers: dict[str, Drawer]
    schedule: tuple[str, ...] = ()
    ahead: dict[str, Drawer] = field(default_factory=dict)

    @classmethod
    def all(cls, drawer: Drawer) -> Layers:
        """One drawer in every layer."""
        return cls({"": drawer})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A model as an importer describes it. ``fields`` are those of the model, in the order in which they are written.

    ``mtp`` are the modules that predict further tokens, for those who ask for them.
    """

    title: str
    fields: dict[str, Value]
    attention: Layers
    ffn: Layers
    mtp: Drawer | None = None


def write(spec: Spec, name: str, origin: Sequence[str], notes: Sequence[str] = ()) -> str:
    """The text of a spec in canonical form: ``origin`` are lines of its doc comment, ``notes`` of a plain one above."""
    from archc.syntax.format import format_text

    lines = ["arch 1", ""]
    lines += [f"# {note}" for note in notes] + [""] * bool(notes)
    lines += [f"## {line}" for line in (spec.title, *origin)]
    lines.append(f"model {name} {{")
    body = [line for field, value in spec.fields.items() for line in _assign(field, value)]
    if spec.mtp is not None:
        body += _assign("mtp", spec.mtp)
    body.append("")
    scheduled: list[str] = []
    for slot, found in (("attention", spec.attention), ("ffn", spec.ffn)):
        drawers = found.drawers | (found.ahead if spec.mtp is not None else {})
        for label, drawer in drawers.items():
            body += _assign(f"{slot} {label}".rstrip() if len(drawers) > 1 else slot, drawer)
        if len(drawers) > 1:
            scheduled.append(f"{slot} = [{layers(found.schedule)}]")
    if len(scheduled) == 1:
        body += ["", f"schedule {{ {scheduled[0]} }}"]
    elif scheduled:
        body += ["", "schedule {", *(_INDENT + line for line in scheduled), "}"]
    lines += [_INDENT + line if line else "" for line in body]
    lines.append("}")
    return format_text("\n".join(lines) + "\n")


def _assign(target: str, value: Value) -> list[str]:
    """The lines of `target = value`: one, or a block of lines."""
    line = f"{target} = {written(value)}"
    if not isinstance(value, Drawer) or not value.fields or len(line) <= WIDTH - len(_INDENT):
        return [line]
    inner = [line for field, inner in value.fields.items() for line in _assign(field, inner)]
    return [f"{target} = {value.kind} {{", *(_INDENT + line for line in inner), "}"]


def written(value: Value) -> str:
    """A value as the language writes it, on one line."""
    if isinstance(value, Drawer):
        inner = ", ".join(f"{name} = {written(v)}" for name, v in value.fields.items())
        return f"{value.kind} {{ {inner} }}" if inner else value.kind
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, Tokens):
        n = value.count
        unit, of = next(((u, k) for u, k in (("Mi", 1 << 20), ("Ki", 1 << 10)) if n % k == 0), ("", 1))
        return f"{_grouped(n // of)}{unit}"
    return number(value)


def number(value: float) -> str:
    """A number that the language reads back as the same value: `14_336`, `1e-5`, `0.02`."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return _grouped(int(value))
    return re.sub(r"e([+-]?)0*(\d)", lambda m: f"e{m[1].replace('+', '')}{m[2]}", repr(value))


def _grouped(n: int) -> str:
    """Digits in groups of three, from five digits on."""
    return f"{n:_}" if abs(n) >= 10_000 else str(n)


def identifier(text: str) -> str:
    """The name of a model from any text: `Llama-3.1-8B` becomes `llama_3_1_8b`."""
    import keyword

    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if not name or name[0].isdigit() or name in _RESERVED or keyword.iskeyword(name):
        name = f"model_{name}".rstrip("_")
    return name


# --- schedules -----------------------------------------------------------------------------------
def layers(names: Sequence[str]) -> str:
    """The items of a schedule, as short as one repeat makes them: `(local * 5, full) * 4, local * 2`."""
    best = _items(names)
    starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
    for start in starts:
        head, tail = _items(names[:start]), names[start:]
        for period in range(2, len(tail) // 2 + 1):
            times = _repeats(tail, period)
            if times > 1:
                text = [*head, f"({', '.join(_items(tail[:period]))}) * {times}", *_items(tail[period * times :])]
                if len(", ".join(text)) < len(", ".join(best)):
                    best = text
    return ", ".join(best)


def _repeats(names: Sequence[str], period: int) -> int:
    """How often the first ``period`` names follow each other from the start."""
    times = 1
    while names[period * times : period * (times + 1)] == names[:period]:
        times += 1
    return times


def _items(names: Iterable[str]) -> list[str]:
    """Runs of equal names as items of a schedule."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return [name if count == 1 else f"{name} * {count}" for name, count in runs]
