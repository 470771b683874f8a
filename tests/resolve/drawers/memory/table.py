"""A toy memory, for tests of resolve."""

from __future__ import annotations

from typing import Literal

from archc.schema import Memory, field


class Table(Memory):
    """Looks up rows by hashes of n-grams."""

    orders: list[int] = field("lengths of the n-grams", default=[2, 3])
    rows: int = field("rows of the table", gt=0)
    place: Literal["host", "device"] = field("where the table lives", default="device")
    note: str = field("a remark", default="")
    depth: int | Literal["auto"] = field("how many tables", default="auto")
