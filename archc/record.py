"""Frozen records and data classes made with little code generation or none.

A standard dataclass compiles half a dozen methods for every class. The compiler has about a hundred small classes that
are all imported before anything can be checked: generating them would cost every command more than reading its spec.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

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


T = TypeVar("T")


@dataclass_transform(field_specifiers=(dataclasses.field,))
def dataclass(
    *, frozen: bool = False, slots: bool = False, kw_only: bool = False, eq: bool = True, repr: bool = True
) -> Callable[[type[T]], type[T]]:
    """`dataclasses.dataclass` for a fifth of its price: `fields`, `replace`, `asdict` work on what it gives.

    Only ``__init__`` is compiled for each class; comparing, hashing, showing and freezing need nothing but the fields'
    names. Its bases are plain classes or come from here too.
    """

    def decorate(cls: type[T]) -> type[T]:
        # init and the rest are added below: that is what costs
        made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
        own = cls.__dict__
        fields = dataclasses.fields(made)
        made.__init__ = _init(made, fields, frozen)
        names = [f.name for f in fields if f.compare]
        values = (lambda self: ()) if not names else attrgetter(*names)
        if repr and "__repr__" not in own:
            made.__repr__ = _repr
        if eq and "__eq__" not in own:
            made.__eq__ = lambda self, other: (
                values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented
            )
        if eq and "__hash__" not in own:
            made.__hash__ = (lambda self: hash(values(self))) if frozen else None
        if frozen:
            made.__setattr__, made.__delattr__ = _frozen, _frozen
            made.__getstate__, made.__setstate__ = _state, _restore
        return made

    return decorate


def _init(cls: type, fields: tuple[dataclasses.Field[Any], ...], frozen: bool) -> Callable[..., None]:
    """The constructor of a data class."""
    given: dict[str, Any] = {"_missing": dataclasses.MISSING, "_set": object.__setattr__}
    positional, keyword, body = ["self"], [], []
    for f in fields:
        value = f.name
        text = f.name
        if f.default is not dataclasses.MISSING:
            given[f"_{f.name}"] = f.default
            text = f"{f.name}=_{f.name}"
        elif f.default_factory is not dataclasses.MISSING:
            given[f"_{f.name}"] = f.default_factory
            text = f"{f.name}=_missing"
            value = f"_{f.name}() if {f.name} is _missing else {f.name}"
        if f.init:
            (keyword if f.kw_only else positional).append(text)
        elif f.default_factory is not dataclasses.MISSING:
            value = f"_{f.name}()"
        else:
            continue
        body.append(f"_set(self, {f.name!r}, {value})" if frozen else f"self.{f.name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    signature = ", ".join((*positional, "*", *keyword) if keyword else positional)
    # as `dataclasses` does it, with names that no annotation or default can reach
    exec(f"def __init__({signature}):\n " + "\n ".join(body or ["pass"]), given)  # noqa: S102
    given["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    return given["__init__"]


def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _frozen(_: Any, name: str, *value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, f.name) for f in dataclasses.fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for f, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)
