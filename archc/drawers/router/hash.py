"""Routing by a table of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from archc.drawers.router._grouped import settled
from archc.schema import Doubt, Problem, Router, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Hash(Router):
    """A table names the experts of every token id, sqrt(softplus(logit)) weighs them (DeepSeek-V4, arXiv:2606.19348).

    The table is a buffer of the checkpoint. How DeepSeek made theirs is not public; here a fresh one is drawn with the
    weights, a new one for each layer: distinct experts for every token id, and as many ids for one expert as for
    another. No loss could level the loads further, for no gradient moves the choice.
    """

    vocab: int = field("rows of the table", unit="tokens", inherit="vocab", gt=0)
    active: int = field("experts per token", gt=0)
    renormalise: bool = field("divide the weights of a token by their sum", default=True)
    scale: float = field("factor on the weights", default=1.0, gt=0)

    def misfits(self, experts: int) -> Iterator[Problem]:
        if self.active > experts:
            yield Problem(fields=("active",), message=f"active = {self.active} is more than the {experts} experts")

    def doubts(self, context: int) -> Iterator[Doubt]:
        if self.renormalise:
            yield from settled(self.active, "renormalise")

    def build(self, g: Builder, x: Value, experts: int) -> tuple[Value, Value]:
        weight = g.param("weight", (experts, x.type.last), role="router")
        scores = g.sqrt_softplus(g.project(g.cast(x, to="fp32"), g.cast(weight, to="fp32")))
        table = g.param("tid2eid", (self.vocab, self.active), dtype="int", init="choices", below=experts, buffer=True)
        ids = g.lookup(table, g.tokens)
        weights = g.gather(scores, ids)
        if self.renormalise:
            weights = g.normalize(weights, eps=1e-20)
        if self.scale != 1:
            weights = weights * self.scale
        return ids, weights

    def tiny(self) -> dict[str, Any]:
        return {"vocab": min(self.vocab, 512), "active": min(self.active, 2)}
