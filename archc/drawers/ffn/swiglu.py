"""The gated feed-forward of Llama and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archc.schema import Activation, FeedForward, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Swiglu(FeedForward):
    """Gated feed-forward, down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    hidden: int = field("width between the projections", unit="channels", gt=0)
    bias: bool = field("biases in all three projections", default=False)
    activation: Activation = field("how the gate meets the other branch", kind="silu")

    def tiny(self) -> dict[str, Any]:
        return {"hidden": 256}

    def build(self, g: Builder, x: Value) -> Value:
        gate = g.linear("gate_proj", x, out=self.hidden, bias=self.bias)
        up = g.linear("up_proj", x, out=self.hidden, bias=self.bias)
        hidden = self.activation.build(g, gate, up)
        return g.linear("down_proj", hidden, out=self.dim, bias=self.bias, role="output")
