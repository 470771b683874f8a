"""The door for whatever a SPEC may be: a spec, the name of one in the library, or a `config.json`.

Every command goes through it, so importers themselves are read only where there is a config.
"""

from __future__ import annotations

import os
from typing import Any

from archc import resolve
from archc.diagnostics import Sink
from archc.schema import Model


def is_config(spec: str | os.PathLike[str]) -> bool:
    """Whether a SPEC is the path of a config and not of an `.arch` file: it ends in `.json`."""
    return os.fspath(spec).endswith(".json")


def load(spec: str | os.PathLike[str], *, sink: Sink | None = None, **options: Any) -> Model:
    """The model of a SPEC: of a config by its importer, of anything else by `archc.resolve.load`.

    ``options`` are those of `archc.resolve.load`; ``model`` names the one model of a config. Raises `ArchError` with
    all diagnostics when there is an error.
    """
    if not is_config(spec):
        return resolve.load(spec, sink=sink, **options)
    from archc.importers.read import load_config
    from archc.importers.spec import identifier

    name = options.pop("model", None)
    return load_config(spec, name=None if name is None else identifier(name), sink=sink, **options).model


def load_all(spec: str | os.PathLike[str], *, sink: Sink | None = None, **options: Any) -> tuple[Model, ...]:
    """Every model of a SPEC, as `archc.resolve.load_all`; a config has one."""
    if not is_config(spec):
        return resolve.load_all(spec, sink=sink, **options)
    from archc.importers.read import load_config

    return (load_config(spec, sink=sink, **options).model,)
