"""Drawers from values whose types are known, without building pydantic's validator for each class.

A validator takes a millisecond or two to build for every class, more than resolving a whole spec; a value that has the
very type of its field and keeps its limits would leave it as it came. Everything else goes through pydantic, whose
verdict counts.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, get_args

import annotated_types
from pydantic import BaseModel

from archc.schema.describe import FieldInfo, describe
from archc.schema.drawer import Drawer

D = TypeVar("D", bound=Drawer)

_LIMITS = (
    annotated_types.Gt,
    annotated_types.Ge,
    annotated_types.Lt,
    annotated_types.Le,
    annotated_types.MultipleOf,
)
_TYPES = {"int": int, "float": float, "bool": bool, "str": str}


def make(cls: type[D], values: dict[str, Any]) -> D:
    """``cls(**values)``: equal to it, and raising what it raises (ValidationError, or what a default raises)."""
    fields = _plain(cls)
    if fields is not None and fields.keys() >= values.keys():
        try:
            made = cls.model_construct(**values)
        except Exception:  # noqa: BLE001 - a default's own code may raise anything; pydantic says it its way
            return cls(**values)
        held = made.__dict__
        if held.keys() == fields.keys() and all(_fits(held[name], *known) for name, known in fields.items()):
            return made
    return cls(**values)


@cache
def _plain(cls: type[Drawer]) -> dict[str, tuple[FieldInfo, type[Drawer]]] | None:
    """The fields of a class that has no rules but types and limits, each with the class of drawers that it takes; None
    where the class has validators of its own.
    """
    rules = cls.__pydantic_decorators__
    own = any(
        getattr(rules, name) for name in ("validators", "field_validators", "root_validators", "model_validators")
    )
    overridden = cls.__init__ is not BaseModel.__init__ or cls.__new__ is not BaseModel.__new__
    known = all(isinstance(limit, _LIMITS) for field in cls.model_fields.values() for limit in field.metadata)
    aliased = any(field.validation_alias or field.alias for field in cls.model_fields.values())
    if own or overridden or aliased or not known:
        return None
    return {name: (info, _taken(cls.model_fields[name].annotation)) for name, info in describe(cls).items()}


def _taken(annotation: Any) -> type[Drawer]:
    """The class of drawers among the members of an annotation."""
    members = (annotation, *get_args(annotation))
    return next((m for m in members if isinstance(m, type) and issubclass(m, Drawer)), Drawer)


def _fits(value: Any, info: FieldInfo, drawers: type[Drawer]) -> bool:
    """Whether a value surely passes: of the very type, within the limits."""
    if value is None:
        return info.optional
    if info.words and isinstance(value, str) and value in info.words:
        return type(value) is str
    if info.shape == "slot":
        return isinstance(value, drawers)
    if type(value) is not _TYPES.get(info.shape):
        return False
    if isinstance(value, str):
        return not info.domain_text
    return (
        (info.gt is None or value > info.gt)
        and (info.ge is None or value >= info.ge)
        and (info.lt is None or value < info.lt)
        and (info.le is None or value <= info.le)
        and (info.multiple_of is None or value % info.multiple_of == 0)
    )
