"""Reads a config key by key, checks every value, and in the end accounts for every key that nobody read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from archc.diagnostics import Diagnostic, Sink, Span
from archc.diagnostics.suggest import closest
from archc.importers import keys

_NONE: Mapping[str, tuple[Any, str]] = {}


class Reader:
    """A config, or an object inside one. A key that the config leaves out has the value in ``defaults``.

    A value that cannot be is reported (E0604) and read as the default, or as one that fits, so that reading goes on.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        defaults: Mapping[str, Any],
        sink: Sink,
        spans: Mapping[str, Span],
        *,
        where: str = "",
    ) -> None:
        self.values, self.defaults, self.sink, self.spans, self.where = values, defaults, sink, spans, where
        self.read: set[str] = set()
        self.filled: list[str] = []
        """Keys that were read and came from the defaults, in order."""

    # --- values ------------------------------------------------------------------------------------
    def value(self, key: str) -> Any:
        """What a key says, its default where it is left out; KeyError where there is neither."""
        self.read.add(key)
        if key in self.values:
            return self.values[key]
        if key not in self.filled:
            self.filled.append(key)
        return self.defaults[key]

    def whole(self, key: str) -> int:
        """A whole number of at least 1."""
        return self._checked(key, "a whole number, at least 1", is_count, 1)

    def count(self, key: str) -> int:
        """A whole number of at least 0."""
        return self._checked(key, "a whole number, at least 0", lambda v: is_count(v) or _is_zero(v), 0)

    def whole_or_none(self, key: str) -> int | None:
        """A whole number of at least 1, or null."""
        return self._checked(key, "a whole number, at least 1, or null", lambda v: v is None or is_count(v), None)

    def number(self, key: str) -> float:
        """A finite number."""
        return self._checked(key, "a number", _is_number, 1.0)

    def number_or_none(self, key: str) -> float | None:
        """A finite number, or null."""
        return self._checked(key, "a number or null", lambda v: v is None or _is_number(v), None)

    def flag(self, key: str) -> bool:
        """true or false."""
        return self._checked(key, "true or false", lambda v: isinstance(v, bool), False)

    def word(self, key: str, words: Mapping[str, str], what: str) -> str:
        """The spec's word for one of the config's ``words``; others are features that cannot be imported (E0605)."""
        given = self._checked(key, "a word in quotes", lambda v: isinstance(v, str), next(iter(words)))
        if given not in words:
            self.unsupported(key, f"{what} `{given}` cannot be imported", f"known are {_listed(words)}")
            return next(iter(words.values()))
        return words[given]

    def either(self, key: str, alias: str) -> str:
        """Whichever of a key and its other name decides: transformers takes the other name where both are given."""
        if alias not in self.values:
            return key
        if key in self.values and self.values[key] != self.values[alias]:
            self.ignored(key, f"`{alias}` is the same setting, and goes before it")
        self.read.add(key)
        return alias

    def inside(self, key: str, defaults: Mapping[str, Any]) -> Reader:
        """The object at a key, as a reader of its own; an empty one for null."""
        value = self._checked(key, "an object or null", lambda v: v is None or isinstance(v, dict), None)
        return Reader(value or {}, defaults, self.sink, self.spans, where=f"{self.where}{key}.")

    def _checked(self, key: str, expected: str, fits: Any, otherwise: Any) -> Any:
        try:
            value = self.value(key)
        except KeyError:
            self.bad(key, f"`{self.where}{key}` is missing; it must be {expected}")
            return otherwise
        if fits(value):
            return value
        self.bad(key, f"`{self.where}{key}` must be {expected}, got {shown(value)}")
        default = self.defaults.get(key, otherwise)
        return default if fits(default) else otherwise

    # --- findings ----------------------------------------------------------------------------------
    def bad(self, key: str, message: str, help: str | None = None) -> None:
        """Reports a value that the reference does not take either (E0604)."""
        self._add("E0604", key, message, help)

    def unsupported(self, key: str, message: str, help: str | None = None) -> None:
        """Reports a feature that a spec cannot say (E0605)."""
        self._add("E0605", key, message, help)

    def ignored(self, key: str, why: str) -> None:
        """Warns that the reference does not honour a key (W0601)."""
        message = f"`{self.where}{key} = {shown(self.values[key])}` has no effect: {why}"
        self._add("W0601", key, message, severity="warning")

    def _add(self, code: str, key: str, message: str, help: str | None = None, severity: Any = "error") -> None:
        span = self.spans.get(self.where + key) or self.spans.get(self.where.rstrip("."))
        self.sink.add(Diagnostic(code=code, message=message, span=span, help=help, severity=severity))

    # --- the rest ----------------------------------------------------------------------------------
    def unread(self) -> Iterator[str]:
        """Keys that nobody read."""
        return (key for key in self.values if key not in self.read)

    def account(
        self, irrelevant: AbstractSet[str] = frozenset(), ignored: Mapping[str, tuple[Any, str]] = _NONE
    ) -> None:
        """Accounts for every key that the importer did not read: irrelevant, without effect, or an error.

        ``irrelevant`` and ``ignored`` are keys of this type of model, beside those that no type honours.
        """
        ignored = {**keys.IGNORED, **ignored}
        for key in self.unread():
            value = self.values[key]
            if key in keys.IRRELEVANT or key in irrelevant:
                continue
            if key in keys.TRAINING:
                self._training(key)
            elif key in ignored:
                neutral, why = ignored[key]
                if value is not None and value != neutral:
                    self.ignored(key, why)
            elif key in keys.UNSUPPORTED:
                neutral, help = keys.UNSUPPORTED[key]
                if value is not None and value != neutral:
                    self.unsupported(key, f"`{key}` cannot be imported", help)
            elif value is not None:
                self.unknown(key)

    def unknown(self, key: str) -> None:
        """Reports a key that neither the reference nor the importer knows (E0603)."""
        near = closest(key, [*self.defaults, *keys.IGNORED, *keys.UNSUPPORTED])
        help = f"did you mean `{near}`?" if near and near != key else "remove it if it says nothing about the model"
        self._add("E0603", key, f"`{self.where}{key}` is not a key of this type of model", help)

    def _training(self, key: str) -> None:
        rate = self._checked(key, "a number or null", lambda v: v is None or _is_number(v), None)
        if rate:
            message = f"`{key} = {shown(rate)}` is not imported: {keys.TRAINING[key]}"
            self._add("W0602", key, message, severity="warning")


def shown(value: Any) -> str:
    """A value as JSON has it, cut where it is long."""
    import json

    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1, small enough that a float64 holds it."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53


def _is_zero(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == 0


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1 << 53 if isinstance(value, int) else math.isfinite(value)


def _listed(words: Mapping[str, str]) -> str:
    return ", ".join(f"`{w}`" for w in words)
