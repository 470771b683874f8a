"""A model and its variants: one file read once, one resolution that keeps what a variant leaves as it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from archc.diagnostics import ArchError, Sink, Source, Span
from archc.resolve.finish import modelled, resolved
from archc.resolve.load import chosen, folders_of, opened
from archc.resolve.overrides import parsed
from archc.resolve.resolution import Resolution
from archc.resolve.scope import Bound, Definition, Named, Scope
from archc.schema import Model
from archc.syntax import tree


class Family:
    """The models that a spec gives for values of its params.

    Drawers that a variant leaves as they were are the same objects as in the variant before.
    """

    def __init__(
        self,
        spec: str | os.PathLike[str],
        *,
        model: str | None = None,
        params: Mapping[str, Any] | None = None,
        set: Mapping[str, Any] | None = None,
        drawers: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        """The arguments are those of `load`. Raises `ArchError` when the model itself has errors."""
        sink = Sink()
        self._overrides = parsed(sink, params or {}, set or {})
        unit = opened(spec, sink)
        section = None if unit is None else chosen(unit, model, sink)
        if unit is None or section is None:
            raise ArchError(sink.in_order())
        self._unit, self._section, self._folders = unit, section, folders_of(drawers)
        self._bounds: dict[tuple[str, Any, type], Bound] = {}
        self._now: dict[str, Any] = {}
        self._given: dict[str, Definition] = {}
        self.base, self._r = self._start(sink)

    def _start(self, sink: Sink) -> tuple[Model, Resolution]:
        model, r = resolved(sink, self._unit, self._section, self._folders, self._overrides)
        if model is None or sink.errors:
            raise ArchError(sink.in_order())
        self._now, self._given = {}, {}
        return model, r

    @property
    def resolution(self) -> Resolution:
        """The names and values of the variant made last."""
        return self._r

    def variant(self, values: Mapping[str, Any]) -> Model:
        """The model for these values of params, the others as the spec has them. Raises `ArchError`."""
        names = dict.fromkeys([*self._now, *values])
        changed: set[tuple[str, str]] = set()
        for name in names:
            named = self._named(name)
            given = self._given.setdefault(name, named.definition)
            old, new = self._now.get(name, named), values.get(name, named)
            if (type(old), old) != (type(new), new):
                changed.add(named.key)
                named.definition = given if new is named else given.replaced(self._bound(named, new))
        self._now = dict(values)
        self._r.forget(changed)
        self._r.sink = sink = Sink()
        model = modelled(self._r, self._section, 0, variant=True)
        if model is None or sink.errors:
            found = sink.in_order()
            _, self._r = self._start(Sink())  # what has failed is kept too: begin again
            raise ArchError(found)
        return model

    def _named(self, name: str) -> Named:
        named = self._r.names.get(name) or self._r.in_file(self._r.unit, name)
        if named is None or named.what != "param":
            raise KeyError(name)
        return named

    def _bound(self, named: Named, value: Any) -> Bound:
        """A value as if `-P` had given it."""
        key = named.text, value, type(value)
        if key not in self._bounds and type(value) is int and value >= 0:
            self._bounds[key] = _number(named.text, value, Scope(self._unit).hiding(named.key))
        if key not in self._bounds:
            sink = Sink()
            statements = parsed(sink, {named.text: value}, {}).params
            if sink.errors:
                raise ArchError(sink.in_order())
            self._bounds[key] = Bound(statements[0].value, Scope(self._unit).hiding(named.key), statements[0].span)
        return self._bounds[key]


def _number(name: str, value: int, scope: Scope) -> Bound:
    """The bound of `name = value` without parsing it, which takes longer than resolving it."""
    start, text = len(name) + 3, str(value)
    source = Source("<-P>", f"{name} = {text}")
    end = start + len(text) + 1
    number = tree.Number(span=Span(source, 1, start + 1, 1, end), value=value, unit="")
    return Bound(number, scope, Span(source, 1, 1, 1, end))
