"""Routing by square roots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.drawers.router.sigmoid import Sigmoid

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class SqrtSoftplus(Sigmoid):
    """Experts chosen by sqrt(softplus(logit)) plus a bias, weighed without the bias (DeepSeek-V4, arXiv:2606.19348).

    Like `sigmoid` in all but the score.
    """

    def scores(self, g: Builder, logits: Value) -> Value:
        return g.sqrt_softplus(logits)
