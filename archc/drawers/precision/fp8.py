"""FP8 with scales for blocks."""

from __future__ import annotations

from typing import Literal

from archc.schema import Format, Number, Precision, field

PRODUCTS = ("matrix", "output", "experts")
"""Roles of weights whose products run in FP8. All others keep 16 bits: embedding, head, norms, routers, what
compressors pool, weights of index heads, what joins tokens ahead (arXiv:2412.19437, section 3.3.1)."""


class Fp8(Precision):
    """Linear maps and experts in FP8 (E4M3) with scales for blocks, all else in bfloat16 (arXiv:2412.19437, 3.3).

    So DeepSeek-V3 was trained and is served. Activations are quantised in rows of one token by a block; those that go
    to experts travel like that, what comes back is bfloat16, as the gradients the other way round. Attention runs in
    bfloat16. Trained with a master copy and gradients in float32.
    """

    block: int = field("rows and columns of weights that share a scale", unit="channels", default=128, gt=0)
    scales: Literal["fp32", "ue8m0"] = field("dtype of scales: float32, or powers of two in one byte", default="fp32")
    working: Literal["fp8", "bf16"] = field("the copy of such weights that training's products read", default="fp8")
    gradients: Literal["bf16", "fp32"] = field("dtype of gradients", default="fp32")
    index: Literal["bf16", "fp8", "fp4"] = field("products of index queries and keys", default="fp8")

    def stored(self, role: str) -> Format:
        return self.blocks(role)

    def trained(self, role: str) -> Format:
        return self.blocks(role) if self.working == "fp8" else Format("bf16", 16)

    def blocks(self, role: str) -> Format:
        """FP8 in blocks where the products of a role are FP8."""
        square = (self.block, self.block)
        return Format("fp8", 8, square, self.scale_bytes()) if role in PRODUCTS else Format("bf16", 16)

    def scale_bytes(self) -> int:
        """Bytes of a scale."""
        return 4 if self.scales == "fp32" else 1

    def product(self, role: str) -> Number:
        return "fp8" if role in PRODUCTS else self.index if role == "index" else "bf16"

    def gradient_bytes(self, role: str) -> int:
        return 4 if self.gradients == "fp32" else 2

    def sent(self, way: Literal["dispatch", "combine"]) -> Format:
        return Format("fp8", 8, (1, self.block), self.scale_bytes()) if way == "dispatch" else Format("bf16", 16)
