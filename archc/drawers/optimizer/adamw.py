"""AdamW."""

from __future__ import annotations

from archc.schema import Optimizer


class Adamw(Optimizer):
    """Two moments of every parameter in float32 (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    def state(self, role: str) -> int:
        return 8
