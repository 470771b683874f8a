"""Routing by probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from archc.drawers.router._grouped import Grouped, settled
from archc.schema import Doubt, Problem, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Softmax(Grouped):
    """The experts of highest probability, weighed by it (Fedus et al. 2021, arXiv:2101.03961)."""

    group_worth = "its best score (DeepSeek-V2, arXiv:2405.04434)"

    renormalise: bool = field("divide the weights of a token by their sum", default=False)
    topk_first: bool = field("choose by logits, then a softmax over the chosen ones", default=False)
    bias: bool = field("a bias on the logits", default=False)
    balance_weight: float = field("weight of the loss that levels the experts' loads", default=0.0, ge=0)
    balance: Literal["sequence", "batch"] = field(
        "what is levelled: each sequence, or all tokens and layers together", default="sequence"
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.topk_first and self.renormalise:
            yield Problem(
                fields=("renormalise", "topk_first"),
                message="renormalise has nothing to do: after topk_first the weights of a token add up to 1",
            )

    def doubts(self, context: int) -> Iterator[Doubt]:
        if (self.topk_first or self.renormalise) and not self.balance_weight:
            yield from settled(self.active, "topk_first" if self.topk_first else "renormalise")

    def about(self) -> str:
        if not self.topk_first:
            return super().about()
        return self.and_groups(
            "The experts of largest logits, weighed by a softmax over these (gpt-oss, arXiv:2508.10925)."
        )

    def build(self, g: Builder, x: Value, experts: int) -> tuple[Value, Value]:
        logits = self.logits(g, x, experts, bias=self.bias)
        if self.topk_first:
            ids = self.best(g, logits, of_group=1)
            weights = g.softmax(g.gather(logits, ids))
            scores = g.softmax(logits) if self.balance_weight else logits
        else:
            scores = g.softmax(logits)
            ids = self.best(g, scores, of_group=1)
            weights = g.gather(scores, ids)
        if self.renormalise:
            weights = g.normalize(weights)
        if self.scale != 1:
            weights = weights * self.scale
        if self.balance_weight and self.balance == "sequence":
            g.sequence_balance(scores, ids, g.time, weight=self.balance_weight)
        elif self.balance_weight:
            g.batch_balance(scores, ids, g.time, weight=self.balance_weight)
        return ids, weights
