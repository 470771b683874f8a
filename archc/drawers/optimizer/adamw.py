"""AdamW."""

from __future__ import annotations

from typing import Literal

from archc.schema import Optimizer, field


class Adamw(Optimizer):
    """Two moments of every parameter (Loshchilov and Hutter 2017, arXiv:1711.05101).

    Large tables, of which a step touches few rows, may do with one number a row (row-wise Adagrad), or without state.
    """

    moments: Literal["fp32", "bf16"] = field("dtype of the moments, but of float32 islands", default="fp32")
    tables: Literal["dense", "rows", "none"] = field(
        "state of tables: as of other parameters, a float32 number a row, or none", default="dense"
    )

    def state(self, role: str, *, island: bool = False) -> int:
        if role == "table" and self.tables != "dense":
            return 0
        return 8 if island or self.moments == "fp32" else 4

    def row_state(self, role: str) -> int:
        return 4 if role == "table" and self.tables == "rows" else 0
