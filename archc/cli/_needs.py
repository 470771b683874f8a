"""What commands that run a package ask for before they start."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import click


def require(modules: Iterable[str]) -> None:
    """Raises a usage error that says what to install where one of the modules cannot be imported."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        names, packages = ", ".join(missing), " ".join(missing)
        raise click.UsageError(f"this needs {names}, which cannot be imported here: pip install {packages}")
