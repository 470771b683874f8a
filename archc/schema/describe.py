"""What the fields of a drawer are, read from its pydantic schema: the one source for resolve, `archc drawers` and
`archc schema`.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from archc.record import dataclass
from archc.schema.drawer import Drawer

Shape = Literal["int", "float", "bool", "str", "word", "slot", "list"]

_SCALARS: dict[Any, Shape] = {int: "int", float: "float", bool: "bool", str: "str"}
_ARTICLES: dict[Shape, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "`true` or `false`",
    "str": "a string",
    "word": "a word",
    "slot": "a drawer",
    "list": "a list",
}


class SchemaError(TypeError):
    """A drawer's field has a type that the language cannot express."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldInfo:
    """One field of a drawer, as a spec sees it.

    ``words`` are the names that the field itself understands (a `Literal` annotation); they may stand beside a scalar
    type. ``default`` is meaningful when ``has_default``; ``computed`` says that the default follows from the fields
    before it. ``gt`` .. ``multiple_of`` are the limits of a number.
    """

    name: str
    shape: Shape
    doc: str = ""
    unit: str = ""
    optional: bool = False
    words: tuple[Any, ...] = ()
    slot: str = ""
    item: FieldInfo | None = None
    inherit: str | None = None
    kind: str | None = None
    has_default: bool = False
    default: Any = None
    computed: bool = False
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    multiple_of: float | None = None

    @property
    def type_text(self) -> str:
        """The type as a person reads it: "int", "silu | gelu", "rope drawer or none", "list of int"."""
        if self.item is not None:
            text = f"list of {self.item.type_text}"
        elif self.shape == "slot":
            text = f"{self.slot} drawer"
        else:
            words = " | ".join(str(w) for w in self.words)
            text = words if self.shape == "word" else f"{self.shape} | {words}" if words else self.shape
        return f"{text} or none" if self.optional else text

    @property
    def domain_text(self) -> str:
        """The limits of a number ("> 0, multiple of 2"), "" without any."""
        signs = ((">", self.gt), (">=", self.ge), ("<", self.lt), ("<=", self.le), ("multiple of", self.multiple_of))
        return ", ".join(f"{sign} {limit:g}" for sign, limit in signs if limit is not None)

    @property
    def wanted(self) -> str:
        """What a value must be, for messages: "a whole number", "a list of whole numbers"."""
        if self.item is not None:
            return f"a list, each item {self.item.wanted}"
        if self.shape == "slot":
            return f"{'an' if self.slot[0] in 'aeiou' else 'a'} {self.slot} drawer"
        if self.shape == "word":
            return "one of " + ", ".join(str(w) for w in self.words)
        extra = " or one of " + ", ".join(str(w) for w in self.words) if self.words else ""
        return _ARTICLES[self.shape] + extra

    @property
    def required(self) -> bool:
        """Whether a spec must give the field (nothing else fills it)."""
        return not (self.has_default or self.inherit or self.kind)


@cache
def describe(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a drawer class by name, in the order of its schema. Raises `SchemaError` for a type the language
    cannot express.
    """
    return {name: _describe(cls, name, info) for name, info in cls.model_fields.items()}


def _describe(cls: type[BaseModel], name: str, info: Any) -> FieldInfo:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    given: dict[str, Any] = _of_type(info.annotation, f"{cls.__name__}.{name}")
    for limit in info.metadata:
        for key, kind in (
            ("gt", annotated_types.Gt),
            ("ge", annotated_types.Ge),
            ("lt", annotated_types.Lt),
            ("le", annotated_types.Le),
            ("multiple_of", annotated_types.MultipleOf),
        ):
            if isinstance(limit, kind):
                given[key] = getattr(limit, key)
    computed = info.default_factory is not None
    return FieldInfo(
        name=name,
        doc=info.description or "",
        unit=str(extra.get("unit") or ""),
        inherit=extra.get("inherit"),
        kind=extra.get("kind"),
        has_default=computed or info.default is not PydanticUndefined,
        default=None if computed or info.default is PydanticUndefined else info.default,
        computed=computed,
        **given,
    )


def _of_type(annotation: Any, where: str) -> dict[str, Any]:
    """The part of a `FieldInfo` that an annotation gives."""
    found: dict[str, Any] = {}
    words: list[Any] = []
    for member in _members(annotation):
        if member is type(None):
            found["optional"] = True
        elif get_origin(member) is Literal:
            words.extend(get_args(member))
        elif "shape" in found:
            raise SchemaError(f"{where}: a field has one type (and perhaps words or None beside it), not {annotation}")
        elif member in _SCALARS:
            found["shape"] = _SCALARS[member]
        elif isinstance(member, type) and issubclass(member, Drawer):
            found |= {"shape": "slot", "slot": member.slot}
        elif get_origin(member) in (list, tuple):
            items = [a for a in get_args(member) if a is not Ellipsis]
            if len(items) != 1:
                raise SchemaError(f"{where}: a list field has items of one type, not {annotation}")
            found |= {"shape": "list", "item": FieldInfo(name=where.rpartition(".")[2], **_of_type(items[0], where))}
        else:
            raise SchemaError(f"{where}: the language has no values of type {annotation}")
    if words:
        found["words"] = tuple(words)
        found.setdefault("shape", "word")
    if "shape" not in found:
        raise SchemaError(f"{where}: the language has no values of type {annotation}")
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
