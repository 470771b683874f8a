"""Rotary positions with the frequency scaling of Llama 3.1."""

from __future__ import annotations

from typing import Any

from archc.drawers.rope.rope import Rope
from archc.schema import field


class Llama3(Rope):
    """Long wavelengths divided by a factor, short ones kept, a ramp between (Llama 3.1, arXiv:2407.21783)."""

    factor: float = field("how many times the original context is stretched", ge=1)
    low: float = field("rotations over the original context below which a frequency is divided", default=1.0, gt=0)
    high: float = field("rotations over the original context above which a frequency is kept", default=4.0, gt=0)
    original: int = field("context before stretching", unit="tokens", gt=0)

    def scaling(self) -> dict[str, Any]:
        return {
            "scaling": "llama3",
            "factor": self.factor,
            "low": self.low,
            "high": self.high,
            "original": self.original,
        }

    def tiny(self) -> dict[str, Any]:
        return super().tiny() | {"original": min(self.original, 32)}
