"""Routing whose loads a bias levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from archc.drawers.router._grouped import Grouped, settled
from archc.schema import Doubt, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Sigmoid(Grouped):
    """Experts chosen by score plus a bias that levels loads, weighed by the score (DeepSeek-V3, arXiv:2412.19437)."""

    group_worth = "the sum of its best two scores"

    renormalise: bool = field("divide the weights of a token by their sum", default=True)
    bias_rate: float = field("how far `after_step` moves the bias of an expert", default=0.001, ge=0)
    balance_weight: float = field("weight of the loss that levels loads in each sequence", default=0.0, ge=0)

    def doubts(self, context: int) -> Iterator[Doubt]:
        if self.renormalise and not self.balance_weight:
            yield from settled(self.active, "renormalise")

    def build(self, g: Builder, x: Value, experts: int) -> tuple[Value, Value]:
        scores = self.scores(g, self.logits(g, x, experts))
        bias = g.param("e_score_correction_bias", (experts,), role="bias", init="zeros", dtype="fp32", buffer=True)
        biased = scores + bias
        ids = self.best(g, biased, of_group=2)
        weights = g.gather(scores, ids)
        if self.renormalise:
            weights = g.normalize(weights, eps=1e-20)
        if self.scale != 1:
            weights = weights * self.scale
        if self.bias_rate:
            g.count_loads(bias, ids, rate=self.bias_rate)
        if self.balance_weight:
            g.sequence_balance(scores, ids, g.time, weight=self.balance_weight)
        return ids, weights

    def scores(self, g: Builder, logits: Value) -> Value:
        """Each token's affinity to every expert [B, S, E]."""
        return g.sigmoid(logits)
