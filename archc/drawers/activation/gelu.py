"""The Gaussian error linear unit on the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Activation

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Gelu(Activation):
    """gelu(gate) * up, the GEGLU (Shazeer 2020, arXiv:2002.05202)."""

    def build(self, g: Builder, gate: Value, up: Value) -> Value:
        return g.gelu(gate) * up
