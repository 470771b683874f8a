"""Bfloat16 throughout."""

from __future__ import annotations

from typing import Literal

from archc.schema import Format, Number, Precision, field


class Bf16(Precision):
    """Weights, activations and products in bfloat16; trained with a master copy of the weights in float32.

    Gradients are added up and sent in float32, as for Llama 3 (arXiv:2407.21783, section 3.3.2): 18 bytes of each
    parameter with AdamW. In bfloat16 it is the usual 16 (ZeRO, arXiv:1910.02054, section 3.1).
    """

    gradients: Literal["bf16", "fp32"] = field("dtype of gradients", default="fp32")
    master: Literal["fp32", "none"] = field("dtype of the copy that the optimizer moves", default="fp32")

    def stored(self, role: str) -> Format:
        return Format("bf16", 16)

    def product(self, role: str) -> Number:
        return "bf16"

    def master_bytes(self, role: str) -> int:
        return 4 if self.master == "fp32" else 0

    def gradient_bytes(self, role: str) -> int:
        return 4 if self.gradients == "fp32" else 2
