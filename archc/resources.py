"""The one door to files that ship with archc: grammar, templates, kernels and the library of specs.

A wheel carries them in ``archc/_data``; a checkout (editable installs included) has them beside the package. The
checkout wins, because an editable install may leave a stale copy behind: so paths come from ``__file__``, never from
``importlib.resources``.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent
_ROOT = _CHECKOUT if (_CHECKOUT / "grammar" / "arch.lark").is_file() else _PACKAGE / "_data"


def grammar(name: str = "arch.lark") -> Path:
    """The path of a grammar file."""
    return _ROOT / "grammar" / name


def templates() -> Path:
    """The folder of package templates and run-time files."""
    return _ROOT / "templates"


def kernels() -> Path:
    """The folder of operator references and kernels."""
    return _ROOT / "kernels"


def specs() -> Path:
    """The folder of the library of models."""
    return _ROOT / "specs"
