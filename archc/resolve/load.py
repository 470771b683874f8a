"""The door to resolve: from a path, a library name or a text to models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from archc.diagnostics import ArchError, Diagnostic, Sink
from archc.resolve import lints
from archc.resolve.finish import loose_names, resolved
from archc.resolve.overrides import parsed
from archc.resolve.project import Project, Unit, library, locate
from archc.resolve.resolution import Resolution
from archc.resolve.suggest import did_you_mean, listed
from archc.schema import Model
from archc.syntax import tree


def load(
    spec: str | os.PathLike[str],
    *,
    model: str | None = None,
    params: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    drawers: Iterable[str | os.PathLike[str]] = (),
    sink: Sink | None = None,
) -> Model:
    """The resolved model of a spec: a path, or the name of a spec in the library.

    Of several models the first is taken unless ``model`` names one. ``params`` are `-P`, ``set`` is `--set`,
    ``drawers`` are folders of further drawers. Diagnostics (warnings too) are also put into ``sink``. Raises
    `ArchError` with all of them when there is an error.
    """
    sink = Sink() if sink is None else sink
    before = len(sink.errors)
    found: Model | None = None
    try:
        found = _load(spec, model, params or {}, set or {}, folders_of(drawers), sink)
    except RecursionError:
        sink.add(_TOO_DEEP)
    if found is None or len(sink.errors) > before:
        raise ArchError(sink.in_order())
    return found


def load_all(
    spec: str | os.PathLike[str], *, drawers: Iterable[str | os.PathLike[str]] = (), sink: Sink | None = None
) -> tuple[Model, ...]:
    """Every model of a spec, in the order of the file. Raises `ArchError` when one has an error."""
    sink = Sink() if sink is None else sink
    before = len(sink.errors)
    found: tuple[Model, ...] = ()
    try:
        unit = opened(spec, sink)
        if unit is not None:
            found = _all(unit, folders_of(drawers), sink)
    except RecursionError:
        sink.add(_TOO_DEEP)
    if len(sink.errors) > before:
        raise ArchError(sink.in_order())
    return found


def check_text(
    text: str, name: str = "<text>", *, drawers: Iterable[str | os.PathLike[str]] = ()
) -> tuple[Diagnostic, ...]:
    """All diagnostics of a text: every model in it is resolved. Imports are looked for in the library."""
    return _checked(text, name, drawers)[1]


def load_text(text: str, name: str = "<text>", *, drawers: Iterable[str | os.PathLike[str]] = ()) -> tuple[Model, ...]:
    """The models of a text. Raises `ArchError` when one has an error."""
    models, diagnostics = _checked(text, name, drawers)
    if any(d.severity == "error" for d in diagnostics):
        raise ArchError(diagnostics)
    return models


_TOO_DEEP = Diagnostic(code="E0120", message="the spec is nested too deeply")


def _checked(
    text: str, name: str, drawers: Iterable[str | os.PathLike[str]]
) -> tuple[tuple[Model, ...], tuple[Diagnostic, ...]]:
    sink = Sink()
    models: tuple[Model, ...] = ()
    try:
        models = _all(Project(sink, None).text(name, text), folders_of(drawers), sink)
    except RecursionError:
        sink.add(_TOO_DEEP)
    return models, sink.in_order()


def folders_of(drawers: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """The folders of further drawers."""
    return tuple(Path(d).resolve() for d in drawers)


def opened(spec: str | os.PathLike[str], sink: Sink) -> Unit | None:
    """The file of a spec, read and parsed; None after an error."""
    place = locate(spec)
    if place is None:
        known = library()
        help = did_you_mean(Path(spec).stem, known) or f"specs of the library: {listed(known)}"
        sink.add(
            Diagnostic(
                code="E0106",
                message=f"there is no spec `{os.fspath(spec)}`: neither a file nor in the library",
                help=help,
            )
        )
        return None
    path, shown = place
    return Project(sink, path.resolve().parent).open(path, shown)


def _load(
    spec: str | os.PathLike[str],
    name: str | None,
    params: Mapping[str, Any],
    sets: Mapping[str, Any],
    folders: tuple[Path, ...],
    sink: Sink,
) -> Model | None:
    overrides = parsed(sink, params, sets)
    unit = opened(spec, sink)
    section = None if unit is None else chosen(unit, name, sink)
    if unit is None or section is None:
        return None
    found, r = resolved(sink, unit, section, folders, overrides)
    if found is not None and len(unit.models) == 1:
        _file_lints(unit, [r], sink)
    return found


def chosen(unit: Unit, name: str | None, sink: Sink) -> tree.Section | None:
    """The model of a file that is meant: the one of this name, by default the first; None after an error."""
    if name is None and unit.models:
        name = next(iter(unit.models))
    if name is None or name not in unit.models:
        if not unit.errors:
            message = f"`{unit.source.name}` has no model" + (f" `{name}`" if name else "")
            help = did_you_mean(name, unit.models) if name else None
            sink.add(
                Diagnostic(
                    code="E0106",
                    message=message,
                    help=help or (f"its models: {listed(unit.models)}" if unit.models else None),
                )
            )
        return None
    return unit.models[name]


def _all(unit: Unit, folders: tuple[Path, ...], sink: Sink) -> tuple[Model, ...]:
    pairs = [resolved(sink, unit, section, folders) for section in unit.models.values()]
    models = tuple(model for model, _ in pairs if model is not None)
    if not pairs:
        loose_names(sink, unit, folders)
    elif len(models) == len(pairs):
        _file_lints(unit, [r for _, r in pairs], sink)
    return models


def _file_lints(unit: Unit, resolutions: list[Resolution], sink: Sink) -> None:
    """Warns of names that the file declares outside its models and none of them uses."""
    for name in () if unit.errors else unit.names:
        named = [found for r in resolutions if (found := r.names.get(name) or r.in_file(unit, name)) is not None]
        if named and not any(n.used for n in named):
            lints.unused(sink, named[:1], frozenset(), unit)
