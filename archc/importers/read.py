"""From the path of a `config.json` to a spec and the model it resolves to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from archc.diagnostics import ArchError, Sink
from archc.importers.source import open_config
from archc.importers.spec import identifier
from archc.importers.translate import convert
from archc.record import dataclass
from archc.resolve.finish import resolved
from archc.resolve.overrides import parsed
from archc.resolve.project import Project
from archc.schema import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A config as a spec: the name of its model, its text, and the model it resolves to."""

    name: str
    text: str
    model: Model


def load_config(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    drawers: Iterable[str | os.PathLike[str]] = (),
    mtp: bool = False,
    sink: Sink | None = None,
) -> Imported:
    """The model that a config means, called ``name`` or after the config; the rest as for a spec.

    Diagnostics (warnings too) are also put into ``sink``. Raises `ArchError` with all of them when there is an error.
    """
    sink = Sink() if sink is None else sink
    before = len(sink.errors)
    found = _load(Path(path), os.fspath(path), name, params or {}, set or {}, drawers, mtp, sink)
    if found is None or len(sink.errors) > before:
        raise ArchError(sink.in_order())
    return found


def _load(
    path: Path,
    shown: str,
    name: str | None,
    params: Mapping[str, Any],
    sets: Mapping[str, Any],
    drawers: Iterable[str | os.PathLike[str]],
    mtp: bool,
    sink: Sink,
) -> Imported | None:
    config = open_config(path, shown, sink)
    if config is None:
        return None
    name = name or _name(config.values, path)
    text, diagnostics = convert(config.values, name, mtp=mtp, origin=path.name, spans=config.spans)
    for diagnostic in diagnostics:
        sink.add(diagnostic)
    if not text:
        return None
    unit = Project(sink, None).text(f"{shown} as a spec", text)
    folders = tuple(Path(d).resolve() for d in drawers)
    model, _ = resolved(sink, unit, unit.models[name], folders, parsed(sink, params, sets))
    return None if model is None else Imported(name=name, text=text, model=model)


def _name(values: Mapping[str, Any], path: Path) -> str:
    """A model's name: what the config calls itself, else the folder or the file it stands in."""
    for key in ("_name_or_path", "name_or_path"):
        given = values.get(key)
        if isinstance(given, str) and Path(given).name:
            return identifier(Path(given).name)
    if path.stem != "config":
        return identifier(path.stem)
    folder = path.resolve().parent.name
    return identifier(folder or str(values.get("model_type", "model")))
