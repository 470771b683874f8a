"""Numbers as the language writes them: `129_280`, `1e-6`, `4Ki`, `80GiB`, `3.35TB/s`."""

from __future__ import annotations

import math
import re

UNITS: dict[str, int] = {
    "": 1,
    **{letter: 1000 ** (i + 1) for i, letter in enumerate("KMBT")},
    **{f"{letter}i": 1024 ** (i + 1) for i, letter in enumerate("KMGT")},
    **{f"{letter}B": 1000 ** (i + 1) for i, letter in enumerate("KMGT")},
    **{f"{letter}iB": 1024 ** (i + 1) for i, letter in enumerate("KMGT")},
}
"""What a suffix multiplies by. `B` alone is a billion, after a letter it is bytes; `/s` may follow any of them."""

MAX_DIGITS = 60
"""Whole numbers have fewer digits than this: far beyond any count a model has, and cheap to compute with."""

_SHAPE = re.compile(
    r"(?P<whole>[0-9_]+)(?P<fraction>\.[0-9_]+)?(?P<exponent>[eE][+-]?[0-9]+)?(?P<unit>[^\W\d]\w*)?(?P<rate>/s)?"
)


class UnknownUnit(ValueError):
    """The suffix of a number is not a unit; ``unit`` is that suffix, ``start`` its place in the number."""

    def __init__(self, unit: str, start: int) -> None:
        super().__init__(unit)
        self.unit, self.start = unit, start


def parse_number(text: str) -> tuple[int | float, str]:
    """The value of a number, unit applied, and the unit as written.

    An int stays an int under any unit; a fraction or an exponent makes a float. Raises UnknownUnit for a suffix that is
    no unit, OverflowError for a value too large to work with, and ValueError for underscores that do not stand between
    digits.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    unit, digits = match["unit"] or "", text[: match.start("unit") if match["unit"] else None].removesuffix("/s")
    if unit not in UNITS:
        raise UnknownUnit(unit, match.start("unit"))
    if digits.endswith("_") or "__" in digits or "_." in digits or "_e" in digits.lower():
        raise ValueError(text)
    if match["fraction"] or match["exponent"]:
        value: int | float = float(digits.replace("_", "")) * UNITS[unit]
        if not math.isfinite(value):
            raise OverflowError(text)
    else:
        if len(digits) >= MAX_DIGITS:
            raise OverflowError(text)
        value = int(digits.replace("_", "")) * UNITS[unit]
    return value, unit + (match["rate"] or "")
