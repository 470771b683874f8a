"""FP8 with experts in FP4."""

from __future__ import annotations

from typing import Literal

from archc.drawers.precision.fp8 import Fp8
from archc.schema import Format, field


class Fp8Fp4(Fp8):
    """As `fp8`, but routed experts are stored in FP4 (E2M1): the formats of DeepSeek-V4 (arXiv:2606.19348).

    A few numbers of an expert's row share a scale. Its product takes FP8 activations and runs in FP8. Scales are powers
    of two, one byte each. Training holds experts as it holds other weights: they learn to be rounded.
    """

    scales: Literal["fp32", "ue8m0"] = field("dtype of scales: float32, or powers of two in one byte", default="ue8m0")
    index: Literal["bf16", "fp8", "fp4"] = field("products of index queries and keys", default="fp4")
    expert_block: int = field("weights of a row of an expert that share a scale", unit="channels", default=32, gt=0)

    def stored(self, role: str) -> Format:
        if role == "experts":
            return Format("fp4", 4, (1, self.expert_block), self.scale_bytes())
        return super().stored(role)
