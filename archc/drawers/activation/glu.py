"""The clamped and shifted gate of gpt-oss and DeepSeek-V4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Activation, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Glu(Activation):
    """(up + shift) * gate * sigmoid(alpha * gate), both branches cut first if asked (gpt-oss, arXiv:2508.10925)."""

    alpha: float = field(
        "steepness of the sigmoid; 1.702 makes gate * sigmoid(alpha * gate) close to a GELU", default=1.0, gt=0
    )
    shift: float = field("what is added to the other branch", default=0.0)
    clamp: float | None = field(
        "cut the gate above this and the other branch beyond it on both sides", default=None, gt=0
    )

    def build(self, g: Builder, gate: Value, up: Value) -> Value:
        return g.swiglu(gate, up, limit=self.clamp, alpha=self.alpha, shift=self.shift)
