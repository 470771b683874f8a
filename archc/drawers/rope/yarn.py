"""Rotary positions with YaRN."""

from __future__ import annotations

import math
from typing import Any

from archc.drawers.rope.rope import Rope
from archc.schema import field


class Yarn(Rope):
    """Frequencies interpolated by their turns over the original context (Peng et al. 2023, arXiv:2309.00071)."""

    factor: float = field("how many times the original context is stretched", ge=1)
    original: int = field("context before stretching", unit="tokens", gt=0)
    beta_fast: float = field("rotations above which a frequency is kept", default=32.0, gt=0)
    beta_slow: float = field("rotations below which a frequency is divided", default=1.0, gt=0)
    mscale: float | None = field("weight of the length correction in cos and sin", default=None)
    mscale_all_dim: float | None = field("weight of the length correction in the attention scale", default=None)
    attention_factor: float | None = field(
        "factor on cos and sin; 0.1 ln(factor) + 1 when left out", default=None, gt=0
    )
    truncate: bool = field("round the ends of the ramp to whole channels", default=True)

    def magnitude(self) -> float:
        """The factor on cos and sin: what keeps the attention's temperature right over long contexts."""
        if self.attention_factor is not None:
            return self.attention_factor

        if self.mscale and self.mscale_all_dim:
            return self._correction(self.mscale) / self._correction(self.mscale_all_dim)
        return self._correction(1.0)

    def softmax_correction(self) -> float:
        """Queries and keys both take the correction that ``mscale_all_dim`` weighs, so the logits take its square."""
        return self._correction(self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    def _correction(self, weight: float) -> float:
        return 0.1 * weight * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def scaling(self) -> dict[str, Any]:
        return {
            "scaling": "yarn",
            "factor": self.factor,
            "original": self.original,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "truncate": self.truncate,
            "magnitude": self.magnitude(),
        }

    def tiny(self) -> dict[str, Any]:
        # Of half the twin's context: much shorter, and no frequency that tells neighbours apart would be left
        return super().tiny() | {"original": min(self.original, 256)}
