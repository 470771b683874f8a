"""A mixture of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from archc.drawers.ffn.swiglu import Swiglu
from archc.schema import Activation, FeedForward, Problem, Router, field
from archc.schema.making import make

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class _Names(NamedTuple):
    """What a family calls the parts, and how it stores the first matrices of its experts."""

    router: str
    shared: str
    shared_gate: str
    inputs_first: bool = False
    """Matrices are [experts, in, out], channels of gate and up take turns; else [experts, out, in], gate's come
    first."""


NAMES = {
    "deepseek": _Names("gate", "shared_experts", "shared_experts_gate"),
    "qwen": _Names("gate", "shared_expert", "shared_expert_gate"),
    "gpt_oss": _Names("router", "shared_experts", "shared_experts_gate", inputs_first=True),
}

TINY_EXPERTS, TINY_HIDDEN = 8, 64


class Moe(FeedForward):
    """A router gives each token a few of many gated feed-forwards (DeepSeekMoE, arXiv:2401.06066)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    experts: int = field("routed experts", gt=0)
    hidden: int = field("width between the projections of an expert", unit="channels", gt=0)
    shared: int = field("experts that every token uses, run as one", default=0, ge=0)
    shared_hidden: int = field(
        "width between the projections of the shared experts together",
        unit="channels",
        default_factory=lambda f: f["shared"] * f["hidden"],
        ge=0,
    )
    shared_gate: bool = field("weigh what the shared experts give by a sigmoid of the token", default=False)
    bias: bool = field("biases in the projections of the routed experts", default=False)
    activation: Activation = field("how the gate meets the other branch", kind="silu")
    shared_activation: Activation | None = field(
        "of the shared experts; that of the routed ones when left out", default=None
    )
    router: Router = field("chooses the experts of a token")
    names: Literal["deepseek", "qwen", "gpt_oss"] = field(
        "the family whose parameter names and weight layout it has", default="deepseek"
    )

    def problems(self) -> Iterator[Problem]:
        for misfit in self.router.misfits(self.experts):
            fields = (*(f"router.{name}" for name in misfit.fields), "experts")
            yield Problem(fields=fields, message=misfit.message, help=misfit.help)
        if not self.shared and (self.shared_hidden or self.shared_gate or self.shared_activation):
            yield Problem(
                fields=("shared_hidden", "shared_gate", "shared_activation"),
                message="there is no shared expert",
                help="write `shared = 1`",
            )
        if self.shared and not self.shared_hidden:
            yield Problem(fields=("shared_hidden",), message="shared experts of width 0")

    def tiny(self) -> dict[str, Any]:
        """The fewest experts, from eight on, among which the router's own twin can choose.

        A model of few experts may get a twin of more: its router's groups need not divide so few.
        """
        router = self.router.model_copy(update=self.router.tiny())
        counts = range(min(self.experts, TINY_EXPERTS), 2 * self.experts + 1)
        return {
            "experts": next((n for n in counts if not any(router.misfits(n))), self.experts),
            "hidden": TINY_HIDDEN,
            "shared_hidden": 2 * TINY_HIDDEN if self.shared else 0,
        }

    def build(self, g: Builder, x: Value) -> Value:
        names = NAMES[self.names]
        with g.component("router"):
            ids, weights = g.call(
                names.router, f"{type(self.router).__name__}Router", self.route, x, doc=self.router.about()
            )
        with g.component("experts"):
            routed = g.call("experts", "Experts", self.routed, x, ids, weights)
        if not self.shared:
            return routed
        with g.component("shared_experts"):
            activation = self.shared_activation or self.activation
            every = make(Swiglu, {"dim": self.dim, "hidden": self.shared_hidden, "activation": activation})
            shared = g.call(names.shared, "SharedExperts", every.build, x)
            if self.shared_gate:
                shared = g.sigmoid(g.linear(names.shared_gate, x, out=1)) * shared
            return routed + shared

    def route(self, g: Builder, x: Value) -> tuple[Value, Value]:
        """Ids and weights of each token's experts."""
        return self.router.build(g, x, self.experts)

    def routed(self, g: Builder, x: Value, ids: Value, weights: Value) -> Value:
        """Each token through its experts: rows sorted by expert, then summed."""
        inputs_first = NAMES[self.names].inputs_first
        matrix = {"active": ids.type.last, "bias": self.bias, "inputs_first": inputs_first}
        rows, order, ends = g.dispatch(x, ids, experts=self.experts)
        gate_up = g.grouped_linear("gate_up_proj", rows, ends, out=2 * self.hidden, **matrix)
        if inputs_first:
            gate, up = g.unbind(g.unflatten(gate_up, sizes=(self.hidden, 2)))
        else:
            gate, up = g.split(gate_up, sizes=(self.hidden, self.hidden))
        hidden = self.activation.build(g, gate, up)
        y = g.grouped_linear("down_proj", hidden, ends, out=self.dim, **matrix)
        return g.combine(y, weights, order)
