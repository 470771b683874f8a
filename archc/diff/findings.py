"""What a comparison finds, in the shape of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from archc.diagnostics import Span
from archc.graph import Graph
from archc.plan.runs import ranges
from archc.schema import Model

FORMAT_VERSION = 1

Level = Literal["CKPT", "NUMERICS", "COST", "TEXT"]

LEVELS: tuple[Level, ...] = ("CKPT", "NUMERICS", "COST", "TEXT")
"""The gravest first.

CKPT: a checkpoint of one does not load into the other. NUMERICS: it loads, and gives other outputs, or trains
otherwise. COST: the same numbers at another price. TEXT: the same model, written otherwise.
"""

GROUPS = (
    "model",
    "embedding",
    "memory",
    "attention",
    "ffn",
    "norm",
    "residual",
    "head",
    "mtp",
    "init",
    "cache",
    "precision",
    "optimizer",
    "hardware",
)
"""Parts of a model that findings belong to, in the order in which they are shown: ``model``, and the slots."""


class Side(NamedTuple):
    """One of the two models, planned."""

    model: Model
    graph: Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A field of the specs whose values differ, and where each got its own, what decided first.

    ``field`` is empty where the drawers themselves are of different kinds. No spans: the value is a default.
    """

    group: str
    layers: tuple[int, ...] = ()
    """Those it is about; none where it is not a matter of layers."""
    field: str
    a: str
    b: str
    a_spans: tuple[Span, ...] = ()
    b_spans: tuple[Span, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain data; spans as ``file:line:column``."""
        return {
            "field": self.field,
            "a": self.a,
            "b": self.b,
            "a_at": [str(s) for s in self.a_spans],
            "b_at": [str(s) for s in self.b_spans],
        }


Change = Literal["added", "removed", "reshaped", "renamed", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference: ``what`` changed, from ``a`` to ``b`` (either empty where it is only on one side)."""

    level: Level
    group: str
    change: Change
    what: str
    a: str
    b: str
    layers: tuple[int, ...] = ()
    training_only: bool = False
    """Outputs of the main model stay; what is learned, or what is drafted, does not."""
    places: tuple[Place, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "level": self.level,
            "group": self.group,
            "layers": ranges(self.layers),
            "change": self.change,
            "what": self.what,
            "a": self.a,
            "b": self.b,
            "training_only": self.training_only,
            "places": [p.as_dict() for p in self.places],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All that differs between two models: the gravest findings first, then by group.

    ``places`` are all fields of the specs that differ. ``deltas`` are the figures of the cost reports that differ:
    ``{key: (a, b)}``.
    """

    findings: tuple[Finding, ...]
    places: tuple[Place, ...]
    deltas: Mapping[str, tuple[float | None, float | None]]

    @property
    def level(self) -> Level | None:
        """The gravest level there is a finding of."""
        return self.findings[0].level if self.findings else None

    def reaches(self, level: Level) -> bool:
        """Whether there is a finding of ``level`` or a graver one."""
        return self.level is not None and LEVELS.index(self.level) <= LEVELS.index(level)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "format_version": FORMAT_VERSION,
            "level": self.level,
            "findings": [f.as_dict() for f in self.findings],
            "deltas": {key: _delta(a, b) for key, (a, b) in self.deltas.items()},
        }


def _delta(a: float | None, b: float | None) -> dict[str, float | None]:
    return {"a": a, "b": b, "delta": None if a is None or b is None else b - a}
