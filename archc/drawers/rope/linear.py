"""Rotary positions with linear interpolation."""

from __future__ import annotations

from typing import Any

from archc.drawers.rope.rope import Rope
from archc.schema import field


class Linear(Rope):
    """Positions divided by a factor (Chen et al. 2023, arXiv:2306.15595)."""

    factor: float = field("how many times the original context is stretched", ge=1)

    def scaling(self) -> dict[str, Any]:
        return {"scaling": "linear", "factor": self.factor}
