"""Frozen records made without code generation.

A standard dataclass compiles half a dozen methods for every class. The compiler has about a hundred small classes that
are all imported before anything can be checked: generating them would cost every command more than reading its spec.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, dataclass_transform

REQUIRED: Any = object()
"""Marks a field without a default."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record:
    """Base of a frozen class whose annotated names are its fields, given by keyword.

    Records are equal when they are of one class and their fields are.
    """

    fields: ClassVar[dict[str, Any]] = {}
    """Fields with their defaults, those of base classes first."""

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        hints = cls.__dict__.get("__annotations__", {})
        own = {name: cls.__dict__.get(name, REQUIRED) for name, hint in hints.items() if "ClassVar" not in hint}
        cls.fields = {**cls.fields, **own}

    def __init__(self, **given: Any) -> None:
        fields = self.fields
        if given.keys() != fields.keys():
            if unknown := given.keys() - fields.keys():
                known = f"its fields: {', '.join(fields) or 'none'}"
                raise TypeError(f"{self._label()} has no field {', '.join(sorted(unknown))}; {known}")
            given = {**fields, **given}
            if missing := [name for name, value in given.items() if value is REQUIRED]:
                raise TypeError(f"{self._label()} needs {', '.join(missing)}")
        self.__dict__.update(given)

    def _label(self) -> str:
        """How messages call it."""
        return type(self).__name__

    def replaced(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self._label()} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(self.__dict__[name] for name in self.fields)))

    def __repr__(self) -> str:
        return f"{self._label()}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self.fields)})"
