"""Float32 throughout."""

from __future__ import annotations

from archc.schema import Format, Number, Precision


class Fp32(Precision):
    """Weights, gradients, activations and products in float32."""

    activation = 4

    def stored(self, role: str) -> Format:
        return Format("fp32", 32)

    def product(self, role: str) -> Number:
        return "fp32"
