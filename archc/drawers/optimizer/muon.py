"""Muon."""

from __future__ import annotations

from archc.drawers.optimizer.adamw import Adamw

WITH_ADAMW = ("embedding", "head", "norm", "bias", "scale", "table")
"""Roles that AdamW moves (DeepSeek-V4, arXiv:2606.19348, section 4.2.2)."""


class Muon(Adamw):
    """One momentum of every matrix, whose steps are made orthogonal; AdamW for the rest (arXiv:2502.16982).

    What AdamW moves is what it moves in DeepSeek-V4 (arXiv:2606.19348, section 2.4).
    """

    def state(self, role: str, *, island: bool = False) -> int:
        if role in WITH_ADAMW:
            return super().state(role, island=island)
        return 4 if island or self.moments == "fp32" else 2
