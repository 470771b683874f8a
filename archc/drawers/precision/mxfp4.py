"""Bfloat16 with experts in FP4."""

from __future__ import annotations

from archc.drawers.precision.bf16 import Bf16
from archc.schema import Format, field


class Mxfp4(Bf16):
    """Routed experts in FP4 (E2M1), all else in bfloat16: the format of gpt-oss (arXiv:2508.10925, section 2.1).

    A few numbers of an expert's row share a scale, a power of two in one byte (the MX formats of the Open Compute
    Project). Products take bfloat16 activations and run in bfloat16. Training holds experts as it holds other weights.
    """

    block: int = field("weights of a row of an expert that share a scale", unit="channels", default=32, gt=0)

    def stored(self, role: str) -> Format:
        return Format("fp4", 4, (1, self.block), 1) if role == "experts" else super().stored(role)

    def trained(self, role: str) -> Format:
        return super().stored(role)
