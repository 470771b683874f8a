"""What was measured of the machine at hand (`archc bench --calibrate`): a file for each number of threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

VERSION = 1
"""Of the files' format; others are not read."""

MISSING = "this machine was not measured yet: run `archc bench --calibrate` (it needs PyTorch, and less than a minute)"


def folder() -> Path:
    """Where calibrations lie: the user's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("archc")) / "machine"


def save(data: dict[str, Any], *, default: bool) -> Path:
    """Writes a calibration, the one that is read unless told otherwise where it is the ``default``."""
    import json

    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{data['threads']}_threads.json"
    spare = path.with_suffix(f".{os.getpid()}.tmp")
    spare.write_text(json.dumps({"version": VERSION, "default": default, **data}))
    spare.replace(path)
    return path


def load(threads: int | None = None) -> dict[str, Any] | None:
    """The calibration for a number of threads, or None.

    Without a number: that of OMP_NUM_THREADS, which PyTorch follows too, or the one for PyTorch's own number.
    """
    import json

    asked = os.environ.get("OMP_NUM_THREADS", "")
    wanted = threads or (int(asked) if asked.isdecimal() else None)
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(folder().glob("*_threads.json")):
        try:
            data = json.loads(path.read_text())
            if data["version"] == VERSION:
                found[data["threads"]] = data
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half a file, or one of another format: as if it were not there
    if wanted is not None:
        return found.get(wanted)
    own = [data for data in found.values() if data["default"]]
    return own[0] if own else next(iter(found.values()), None)


def figures() -> dict[str, float]:
    """What hardware calls memory, bandwidth, peaks and launches, of this machine; empty where it was not measured."""
    data = load()
    return {} if data is None else data["figures"]


def figure(name: str) -> float:
    """One of them, 0 where this machine was not measured."""
    return figures().get(name, 0.0)
