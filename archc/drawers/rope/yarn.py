"""Rotary positions with YaRN."""

from __future__ import annotations

from typing import Any

from archc.drawers.rope.rope import Rope
from archc.schema import field


class Yarn(Rope):
    """Frequencies interpolated by how often they turn over the original context (Peng et al. 2023, arXiv:2309.00071)."""

    factor: float = field("how many times the original context is stretched", ge=1)
    original: int = field("context before stretching", unit="tokens", gt=0)
    beta_fast: float = field("rotations above which a frequency is kept", default=32.0, gt=0)
    beta_slow: float = field("rotations below which a frequency is divided", default=1.0, gt=0)
    mscale: float | None = field("weight of the length correction in cos and sin", default=None)
    mscale_all_dim: float | None = field("weight of the length correction in the attention scale", default=None)
    attention_factor: float | None = field("factor on cos and sin; 0.1 ln(factor) + 1 when left out", default=None, gt=0)
    truncate: bool = field("round the ends of the ramp to whole channels", default=True)

    def scaling(self) -> dict[str, Any]:
        raise NotImplementedError  # written with the graph floor

    def tiny(self) -> dict[str, Any]:
        return super().tiny() | {"original": min(self.original, 32)}
