"""Routing balanced by a bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from archc.schema import field
from archc.schema.slots import Router

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Biased(Router):
    """Chooses by scores plus a bias that balances load, weighs by the scores alone (DeepSeek-V3,
    arXiv:2412.19437)."""

    scoring: Literal["sigmoid", "sqrt_softplus"] = field("affinity of a token to an expert", default="sigmoid")
    active: int = field("experts per token", gt=0)
    groups: int = field("groups of experts", default=1, gt=0)
    keep_groups: int = field("groups that a token may choose from", default=1, gt=0)
    scale: float = field("factor on the weights", default=1.0, gt=0)

    def build(self, g: Builder, x: Value, experts: int) -> tuple[Value, Value]:
        """Ids and weights of each token's experts: [B, S, active] each."""
        logits = g.project(g.cast(x, to="fp32"), g.cast(g.param("weight", (experts, x.type.last)), to="fp32"))
        scores = g.sigmoid(logits) if self.scoring == "sigmoid" else g.sqrt_softplus(logits)
        choice = scores + g.param(
            "e_score_correction_bias", (experts,), role="bias", init="zeros", dtype="fp32", buffer=True
        )
        if self.groups > 1:
            choice = g.group_mask(choice, groups=self.groups, keep=self.keep_groups)
        ids = g.topk(choice, k=self.active)
        weights = g.normalize(g.gather(scores, ids), eps=1e-20) * self.scale
        return ids, weights
