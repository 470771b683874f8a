"""Layer normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Norm, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Layer(Norm):
    """(x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016, arXiv:1607.06450)."""

    eps: float = field("added to the variance", default=1e-5, ge=0)
    bias: bool = field("a learned offset", default=True)

    def build(self, g: Builder, x: Value, name: str) -> Value:
        return g.layer_norm(name, x, eps=self.eps, bias=self.bias)
