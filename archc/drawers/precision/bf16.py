"""Bfloat16 throughout."""

from __future__ import annotations

from archc.schema import Format, Number, Precision


class Bf16(Precision):
    """Weights, activations and products in bfloat16; routers in float32."""

    def stored(self, role: str) -> Format:
        return Format("bf16", 16)

    def product(self, role: str) -> Number:
        return "bf16"
