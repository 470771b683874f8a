"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Norm, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Rms(Norm):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    eps: float = field("added to the mean square", default=1e-6, ge=0)

    def build(self, g: Builder, x: Value, name: str) -> Value:
        return g.rms_norm(name, x, eps=self.eps)
