"""What the registry holds, as data: for `archc drawers`, `archc schema`, and the reference pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from archc.drawers import drawer_class, kinds
from archc.record import dataclass
from archc.schema import LayerSlots, ModelFields
from archc.schema.describe import FieldInfo, describe
from archc.schema.slots import slot_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One kind of drawer. ``slot`` is "model" for the model itself, which has no kind."""

    slot: str
    kind: str
    doc: str
    fields: tuple[FieldInfo, ...]

    @property
    def name(self) -> str:
        """`slot/kind`, or `model`."""
        return f"{self.slot}/{self.kind}" if self.kind else self.slot

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON data."""
        return {"slot": self.slot, "kind": self.kind, "doc": self.doc, "fields": [field_dict(f) for f in self.fields]}


def slots() -> dict[str, str]:
    """The slots by name, each with one line on what it is for."""
    return {name: _first_line(cls) for name, cls in sorted(slot_names().items())}


def entries(folders: tuple[Path, ...] = (), *, slot: str | None = None) -> tuple[Entry, ...]:
    """Every kind of every slot (or of one). Imports all drawer files; raises `archc.drawers.DrawerError` for one that
    cannot be used.
    """
    found: list[Entry] = []
    for name in slots() if slot is None else (slot,):
        for kind in kinds(name, folders, installed=True):
            cls = drawer_class(name, kind, folders)
            found.append(Entry(slot=name, kind=kind, doc=_first_line(cls), fields=tuple(describe(cls).values())))
    return tuple(found)


def model_entry() -> Entry:
    """The fields of a model, with the slots that may differ by layer."""
    fields = describe(ModelFields) | describe(LayerSlots)
    return Entry(slot="model", kind="", doc=_first_line(ModelFields), fields=tuple(fields.values()))


def field_dict(info: FieldInfo) -> dict[str, Any]:
    """A field as JSON data; keys without a value are left out."""
    data: dict[str, Any] = {"name": info.name, "type": info.type_text, "doc": info.doc, "unit": info.unit}
    data |= {"default": default_text(info), "domain": info.domain_text, "required": info.required}
    return {key: value for key, value in data.items() if value != ""}


def default_text(info: FieldInfo) -> str:
    """What fills a field that a spec leaves out: a value, `= dim` for one it inherits, "computed", "" when it must be
    given.
    """
    if info.inherit:
        return f"= {info.inherit}"
    if info.kind:
        return info.kind
    if info.computed:
        return "computed"
    if not info.has_default:
        return ""
    suffix = {"bytes": "B", "bytes/s": "B/s", "FLOP/s": ""}.get(info.unit)
    if suffix is not None and isinstance(info.default, float) and info.default >= 1e6:
        return _large(info.default, suffix)
    return _text(info.default)


def _large(value: float, suffix: str) -> str:
    """A large figure as the language writes it: 80GB, 3.35TB/s, 989.4T."""
    letter, unit = next((n, u) for n, u in (("T", 1e12), ("G" if suffix else "B", 1e9), ("M", 1e6)) if value >= u)
    return f"{value / unit:.6g}{letter}{suffix}"


def json_schema(folders: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The language as JSON Schema (2020-12): a model is an object of its fields, a drawer an object with its ``kind``
    and fields.
    """
    found = entries(folders)
    definitions: dict[str, Any] = {e.name: _object(e) for e in found}
    for name, doc in slots().items():
        definitions[name] = {
            "description": doc,
            "oneOf": [{"$ref": f"#/$defs/{_pointer(e.name)}"} for e in found if e.slot == name],
        }
        if not definitions[name]["oneOf"]:
            # nothing fills a slot without kinds
            definitions[name] = {"description": doc, "not": {}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a model in the archc language",
        **_object(model_entry()),
        "$defs": definitions,
    }


def _object(entry: Entry) -> dict[str, Any]:
    properties = {f.name: _property(f) for f in entry.fields}
    required = [f.name for f in entry.fields if f.required]
    if entry.kind:
        properties = {"kind": {"const": entry.kind}, **properties}
        required = ["kind", *required]
    return {
        "type": "object",
        "description": entry.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _property(info: FieldInfo) -> dict[str, Any]:
    text = info.doc + (f" [{info.unit}]" if info.unit else "")
    data: dict[str, Any] = {"description": text} if text else {}
    options = [_shape(info)] if info.shape != "word" else []
    if info.words:
        options.append({"enum": list(info.words)})
    if info.optional:
        options.append({"type": "null"})
    data |= options[0] if len(options) == 1 else {"anyOf": options}
    if info.has_default and not info.computed:
        data["default"] = info.default
    return data


def _shape(info: FieldInfo) -> dict[str, Any]:
    if info.item is not None:
        return {"type": "array", "items": _property(info.item)}
    if info.shape == "slot":
        return {"$ref": f"#/$defs/{_pointer(info.slot)}"}
    data: dict[str, Any] = {
        "type": {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}[info.shape]
    }
    limits = {
        "exclusiveMinimum": info.gt,
        "minimum": info.ge,
        "exclusiveMaximum": info.lt,
        "maximum": info.le,
        "multipleOf": info.multiple_of,
    }
    return data | {key: limit for key, limit in limits.items() if limit is not None}


def _pointer(name: str) -> str:
    """A name inside a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _first_line(cls: type[BaseModel]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
