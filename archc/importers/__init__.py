"""Importers: configs of other libraries as specs."""

from archc.importers.convert import convert, model_types
from archc.importers.load import Imported, is_config, load, load_all, load_config
from archc.importers.spec import identifier

__all__ = ["Imported", "convert", "identifier", "is_config", "load", "load_all", "load_config", "model_types"]
