"""Trees of texts that were parsed before, kept in the user's cache folder: reading one takes a tenth of parsing, and
neither lark nor its tables are loaded.

A text is kept when nothing is wrong with it, under a name that tells the text and the code that parsed it.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

from archc import record, resources
from archc.diagnostics import Sink, Source, Span, span
from archc.syntax import tree
from archc.syntax.tree import File

MOST = 500
"""Trees that are kept; the oldest go first."""

_SUFFIX = ".tree"


def parsed(source: Source, sink: Sink, folder: Path | None = None) -> File:
    """What `parse` gives, from ``folder`` (by default the user's) where it is kept.

    A folder that cannot be used, and a file that is not what it should be, cost time and nothing else.
    """
    folder = folder or cache_folder()
    file = None if folder is None else folder / f"{_digest(source.text.encode(), _made_by())}{_SUFFIX}"
    if file is not None and (known := _read(file, source)) is not None:
        return known
    from archc.syntax.parser import parse

    found = len(sink.items)
    result = parse(source, sink)
    if file is not None and len(sink.items) == found:
        _write(file, source, result)
    return result


@cache
def cache_folder() -> Path | None:
    """The user's cache folder, None where there is none to write to."""
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("archc"))
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder


def _digest(*parts: bytes) -> str:
    from hashlib import sha256

    known = sha256()
    for part in parts:
        known.update(len(part).to_bytes(8, "big") + part)
    return known.hexdigest()[:32]


@cache
def _made_by() -> bytes:
    """Everything that the tree of a text depends on: Python, the grammar and the code of this folder and of nodes."""
    files = (*sorted(Path(__file__).parent.glob("*.py")), record.__file__, span.__file__, resources.grammar())
    return b"\0".join((repr(sys.version_info[:2]).encode(), *(Path(file).read_bytes() for file in files)))


def _read(file: Path, source: Source) -> File | None:
    try:
        found = _Unpickler(io.BytesIO(file.read_bytes()), source).load()
    except Exception:  # noqa: BLE001 - what a broken file makes of unpickling is anybody's guess
        return None
    return found if isinstance(found, File) else None


def _write(file: Path, source: Source, result: File) -> None:
    text = io.BytesIO()
    own = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError, RecursionError):  # a tree may be deeper than pickle goes
        _Pickler(text, source).dump(result)
        own.write_bytes(text.getvalue())
        own.replace(file)
        kept = sorted(file.parent.glob(f"*{_SUFFIX}"), key=lambda f: f.stat().st_mtime)
        for old in kept[:-MOST]:
            old.unlink()


class _Pickler(pickle.Pickler):
    """Writes a tree without the text that it is the tree of."""

    def __init__(self, file: io.BytesIO, source: Source) -> None:
        super().__init__(file, protocol=5)
        self.source = source

    def persistent_id(self, obj: Any) -> str | None:
        return "source" if obj is self.source else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Span):
            return Span, (obj.source, obj.line, obj.column, obj.end_line, obj.end_column)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Reads a tree, and nothing but nodes and spans: a file may not name code to run."""

    def __init__(self, file: io.BytesIO, source: Source) -> None:
        super().__init__(file)
        self.source = source

    def persistent_load(self, pid: Any) -> Source:
        return self.source

    def find_class(self, module: str, name: str) -> Any:
        if module == span.__name__ and name == "Span":
            return Span
        found = getattr(tree, name) if module == tree.__name__ else None
        if isinstance(found, type) and issubclass(found, tree.Node):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tree")
