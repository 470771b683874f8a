"""The registry of drawers: a listing of folders, nothing else. A new drawer is one file; no list names it.

Kinds come from `archc/drawers/<slot>/<kind>.py`, then from the folders given with `--drawers DIR`
(`DIR/<slot>/<kind>.py`, or a single file `DIR/<kind>.py` whose class tells the slot), then from installed packages
under the entry point group `archc.drawers` (looked up only for a name that nothing else knows: reading the metadata of
every installed package is slow). A file is imported when its kind is first used.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

from archc.schema import Drawer
from archc.schema.describe import SchemaError, describe
from archc.schema.slots import slot_names

_HOME = Path(__file__).resolve().parent
ENTRY_POINTS = "archc.drawers"


class DrawerError(Exception):
    """A drawer file that cannot be used; the message names the file and the reason."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def kinds(slot: str, folders: tuple[Path, ...] = (), *, installed: bool = False) -> tuple[str, ...]:
    """The kinds of a slot, sorted; with ``installed`` those of installed packages too. Raises `DrawerError` for a
    single file that cannot be loaded.
    """
    found = set(_builtin(slot))
    for place in (*folders, *(_entry_folders() if installed else ())):
        found.update(kind for kind, _ in _in_folder(place, slot))
    return tuple(sorted(found))


def drawer_class(slot: str, kind: str, folders: tuple[Path, ...] = ()) -> type[Drawer]:
    """The class of a kind, with its ``slot`` and ``kind`` set. Raises KeyError for an unknown kind, `DrawerError` for a
    file that cannot be used.
    """
    if kind in _builtin(slot):
        return _builtin_class(slot, kind)
    for place in folders:
        for name, path in _in_folder(place, slot):
            if name == kind:
                return _file_class(path, slot, kind)
    for place in _entry_folders():
        for name, path in _in_folder(place, slot):
            if name == kind:
                return _file_class(path, slot, kind)
    raise KeyError(kind)


def summary(slot: str, kind: str, folders: tuple[Path, ...] = ()) -> str:
    """The first line of a drawer's docstring."""
    return (drawer_class(slot, kind, folders).__doc__ or "").strip().partition("\n")[0]


@cache
def _builtin(slot: str) -> frozenset[str]:
    return frozenset(path.stem for path in _files(_HOME / slot)) if slot in slot_names() else frozenset()


@cache
def _builtin_class(slot: str, kind: str) -> type[Drawer]:
    path = _HOME / slot / f"{kind}.py"
    try:
        module = importlib.import_module(f"archc.drawers.{slot}.{kind}")
    except Exception as error:
        raise DrawerError(path, _reason(error)) from error
    return _only_class(module, path, slot, kind)


def _files(folder: Path) -> Iterator[Path]:
    """The drawer files of a folder, sorted: Python files whose name is a plain identifier."""
    if folder.is_dir():
        for path in sorted(folder.glob("*.py")):
            if path.stem.isidentifier() and not path.stem.startswith("_"):
                yield path


def _in_folder(folder: Path, slot: str) -> Iterator[tuple[str, Path]]:
    """Kind and file of every drawer of the slot in a folder that a user gave."""
    for path in _files(folder / slot):
        yield path.stem, path
    for path in _files(folder):
        if _slot_of_file(path) == slot:
            yield path.stem, path


def _slot_of_file(path: Path) -> str | None:
    """The slot of a single drawer file; None for a Python file that defines no drawer."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DrawerError(path, _reason(error)) from error
    if not any(isinstance(node, ast.ClassDef) for node in tree.body):
        return None
    found = _drawers_of(_load(path))
    return found[0].slot if found else None


def _file_class(path: Path, slot: str, kind: str) -> type[Drawer]:
    return _only_class(_load(path), path, slot, kind)


def _load(path: Path) -> ModuleType:
    try:
        return _load_version(path.resolve(), path.stat().st_mtime_ns)
    except OSError as error:
        raise DrawerError(path, _reason(error)) from error


@lru_cache(maxsize=256)
def _load_version(path: Path, version: int) -> ModuleType:
    """The module of a file; loaded again when the file has changed (``version`` is its time stamp), so that an editor
    sees the change.
    """
    name = f"archc_drawer_{abs(hash((str(path), version))):x}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DrawerError(path, "not a Python file")
    module = importlib.util.module_from_spec(spec)
    # pydantic resolves annotations through sys.modules
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise DrawerError(path, _reason(error)) from error
    return module


def _drawers_of(module: ModuleType) -> list[type[Drawer]]:
    """The public drawer classes that a file itself defines."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Drawer)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def _only_class(module: ModuleType, path: Path, slot: str, kind: str) -> type[Drawer]:
    found = _drawers_of(module)
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise DrawerError(
            path, f"a drawer file defines exactly one public drawer class, this one defines {len(found)} ({names})"
        )
    cls = found[0]
    if cls.slot != slot:
        raise DrawerError(
            path, f"{cls.__name__} is a drawer of slot `{cls.slot}`, but stands where `{slot}` drawers are"
        )
    cls.kind = kind
    try:
        describe(cls)
    except SchemaError as error:
        raise DrawerError(path, str(error)) from error
    return cls


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    return f"{type(error).__name__}: {error}"


@lru_cache(maxsize=1)
def _entry_folders() -> tuple[Path, ...]:
    """Folders of the packages that offer drawers under the entry point group."""
    from importlib.metadata import entry_points

    found: list[Path] = []
    for entry in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry.value.partition(":")[0])
        if spec is None:
            continue
        if spec.submodule_search_locations:
            found.extend(Path(place) for place in spec.submodule_search_locations)
        elif spec.origin:
            found.append(Path(spec.origin).parent)
    return tuple(found)
