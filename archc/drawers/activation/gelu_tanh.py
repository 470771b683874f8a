"""The Gaussian error linear unit on the gate, approximated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Activation

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class GeluTanh(Activation):
    """gelu(gate) * up with the tanh approximation of the GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""

    def build(self, g: Builder, gate: Value, up: Value) -> Value:
        return g.gelu(gate, tanh=True) * up
