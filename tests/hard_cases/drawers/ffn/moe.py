"""A mixture of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.drawers.ffn.swiglu import Swiglu
from archc.schema import FeedForward, field
from archc.schema.slots import Router

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Moe(FeedForward):
    """Gated feed-forwards of which each token uses a few, beside shared ones of all (DeepSeekMoE,
    arXiv:2401.06066)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    experts: int = field("routed experts", gt=0)
    hidden: int = field("width between the projections of an expert", unit="channels", gt=0)
    shared: int = field("experts that every token uses", default=1, ge=0)
    router: Router = field("chooses the experts of a token")

    def build(self, g: Builder, x: Value) -> Value:
        with g.component("router"):
            ids, weights = g.call("gate", "Router", self.route, x, doc=type(self.router).__doc__)
        with g.component("experts"):
            y = g.call("experts", "Experts", self.routed, x, ids, weights, doc="Each token through its experts.")
        if self.shared:
            with g.component("shared_experts"):
                shared = Swiglu(dim=self.dim, hidden=self.shared * self.hidden)
                y = y + g.call("shared_experts", "SharedExperts", shared.build, x)
        return y

    def route(self, g: Builder, x: Value) -> tuple[Value, Value]:
        """Ids and weights of each token's experts."""
        return self.router.build(g, x, self.experts)

    def routed(self, g: Builder, x: Value, ids: Value, weights: Value) -> Value:
        """Each token through its experts."""
        return g.experts(None, x, ids, weights, count=self.experts, hidden=self.hidden)
