"""archc: a compiler for neural network architectures.

``load`` a spec, ask what it will ``cost``, ``build`` a PyTorch package. Errors are `ArchError` with ``.diagnostics``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from archc.version import VERSION as __version__

if TYPE_CHECKING:
    from archc.api import build, cost, load
    from archc.diagnostics import ArchError

_HOMES = {"load": "archc.api", "cost": "archc.api", "build": "archc.api", "ArchError": "archc.diagnostics"}


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line starts before it knows which half of the compiler it needs.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'archc' has no attribute {name!r}")


__all__ = ["ArchError", "__version__", "build", "cost", "load"]
