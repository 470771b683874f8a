"""The gated feed-forward of Llama and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from archc.schema import FeedForward, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Swiglu(FeedForward):
    """Gated feed-forward, down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    hidden: int = field("width between the projections", unit="channels", gt=0)
    bias: bool = field("biases in all three projections", default=False)
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = field("the non-linearity on the gate", default="silu")

    def tiny(self) -> dict[str, Any]:
        return {"hidden": 256}

    def build(self, g: Builder, x: Value) -> Value:
        gate = g.linear("gate_proj", x, out=self.hidden, bias=self.bias)
        up = g.linear("up_proj", x, out=self.hidden, bias=self.bias)
        hidden = self.activate(g, gate, up)
        return g.linear("down_proj", hidden, out=self.dim, bias=self.bias, role="output")

    def activate(self, g: Builder, gate: Value, up: Value) -> Value:
        """act(gate) * up [B, S, hidden]"""
        if self.activation == "silu":
            return g.swiglu(gate, up)
        if self.activation == "relu":
            return g.relu(gate) * up
        return g.gelu(gate, tanh=self.activation == "gelu_tanh") * up
