"""What a drawer is: a frozen pydantic schema of its fields; concrete ones add the method that writes their forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from archc.diagnostics import Span
from archc.record import dataclass


def field(
    doc: str,
    *,
    default: Any = ...,
    default_factory: Any = None,
    inherit: str | None = None,
    kind: str | None = None,
    unit: str = "",
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    multiple_of: int | None = None,
) -> Any:
    """A field of a drawer.

    ``doc`` is one line without a full stop; ``unit`` names what a number counts ("channels", "tokens"). ``inherit``
    names a field that fills this one when the spec does not: looked up in the enclosing drawers outward, then in the
    model (``dim``, ``norm``). ``kind`` names the drawer kind that fills a slot when the spec leaves it out.
    ``default_factory`` may take the dict of the fields before it (pydantic's own form).
    """
    extra = {"unit": unit, "inherit": inherit, "kind": kind}
    limits = {"gt": gt, "ge": ge, "lt": lt, "le": le, "multiple_of": multiple_of}
    given: dict[str, Any] = {k: v for k, v in limits.items() if v is not None}
    if default_factory is not None:
        given["default_factory"] = default_factory
    elif default is not ...:
        given["default"] = default
    return Field(description=doc, json_schema_extra=extra, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A rule between fields that does not hold; resolve turns it into a diagnostic at those fields.

    A field of a nested drawer is named with a dot (``router.groups``).
    """

    fields: tuple[str, ...]
    message: str
    help: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt(Problem):
    """What is allowed and yet probably not meant; resolve turns it into a warning ``code`` at the first of those fields
    that was given.
    """

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a drawer and its fields came from in the specs.

    ``fields`` maps a field to the chain of spans that gave it its value, the one that decided first: override, base
    spec, default expression. A field left at its default has no entry.
    """

    span: Span | None = None
    fields: dict[str, tuple[Span, ...]]


class Drawer(BaseModel):
    """A swappable component. ``slot`` and ``kind`` come from where its file stands: ``drawers/<slot>/<kind>.py``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)

    slot: ClassVar[str] = ""
    kind: ClassVar[str] = ""

    _label: str = PrivateAttr(default="")
    _origin: Origin | None = PrivateAttr(default=None)

    @property
    def label(self) -> str:
        """The drawer's name in the spec (`attention csa = ...`), or its kind when it has none. Names its class."""
        return self._label or self.kind

    @property
    def origin(self) -> Origin:
        """Where it stands in the spec."""
        return self._origin or Origin(fields={})

    def placed(self, label: str, origin: Origin | None) -> Drawer:
        """Itself, with its name and place in the spec noted (called once, by resolve)."""
        self._label, self._origin = label, origin
        return self

    def problems(self) -> Iterator[Problem]:
        """Rules between fields that do not hold; overridden by drawers that have some."""
        yield from ()

    def doubts(self, context: int) -> Iterator[Doubt]:
        """What is probably not meant in a model for sequences of ``context`` tokens; nested drawers have their own."""
        yield from ()

    def about(self) -> str:
        """What generated code says of it: the first paragraph of its docstring, overridden where the fields matter."""
        return inspect.cleandoc(type(self).__doc__ or "").split("\n\n")[0].strip()

    def tiny(self) -> dict[str, Any]:
        """Field values of the CPU-size twin (`--tiny`): same structure, small widths. Fields not named stay.

        Nested drawers shrink themselves. Inherited fields follow what they inherit from.
        """
        return {}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.label == other.label and self.__dict__ == other.__dict__  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.label, *((k, _hashable(v)) for k, v in self.__dict__.items())))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
