"""The codes of all diagnostics: one table per area in `archc/diagnostics/codes/`, each a tuple named ``CODES``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Literal

from archc.record import dataclass

AREAS = {
    "E00": "syntax",
    "E01": "names",
    "E02": "values",
    "E03": "schedules",
    "E04": "plan",
    "E05": "checks",
    "E06": "imports",
    "W06": "imports",
    "W0": "lints",
}
"""The first characters of a code, and the area they stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What `archc explain` says about one code.

    Both examples are whole `.arch` files unless ``example`` says otherwise, and tests compile them: ``failing`` gives
    this code and no other, ``fixed`` gives nothing. ``json`` examples are `config.json` files, ``shell`` ones are
    command lines; those are tested where the code is raised.
    """

    id: str
    title: str
    explanation: str
    failing: str
    fixed: str
    example: Literal["arch", "json", "shell"] = "arch"

    @property
    def area(self) -> str:
        """The area of the compiler that reports it, by the first characters of its id."""
        return next(area for prefix, area in AREAS.items() if self.id.startswith(prefix))

    @property
    def severity(self) -> Literal["error", "warning"]:
        """`warning` for lints, `error` for the rest."""
        return "warning" if self.id.startswith("W") else "error"


@cache
def codes() -> dict[str, Code]:
    """Every code by its id, in order. Raises ValueError when two tables claim one id."""
    found: dict[str, Code] = {}
    package = importlib.import_module("archc.diagnostics.codes")
    for module in pkgutil.iter_modules(package.__path__):
        for code in importlib.import_module(f"{package.__name__}.{module.name}").CODES:
            if code.id in found:
                raise ValueError(f"the code {code.id} is defined twice: {found[code.id].title!r} and {code.title!r}")
            found[code.id] = code
    return dict(sorted(found.items()))
