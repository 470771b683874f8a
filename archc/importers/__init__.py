"""Importers: configs of other libraries as specs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from archc.importers.door import is_config, load, load_all

if TYPE_CHECKING:
    from archc.importers.read import Imported, load_config
    from archc.importers.spec import identifier
    from archc.importers.translate import convert, model_types

_HOMES = {
    "Imported": "read",
    "convert": "translate",
    "identifier": "spec",
    "load_config": "read",
    "model_types": "translate",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Imported", "convert", "identifier", "is_config", "load", "load_all", "load_config", "model_types"]
