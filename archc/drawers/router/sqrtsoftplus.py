"""Routing by square roots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.drawers.router.sigmoid import Sigmoid

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class SqrtSoftplus(Sigmoid):
    """Experts chosen by sqrt(softplus(logit)) plus a bias, weighed by it without (DeepSeek-V4, arXiv:2606.19348).

    The bias levels loads, as that of `sigmoid` does; otherwise, too, the two differ in their scores alone.
    """

    def scores(self, g: Builder, logits: Value) -> Value:
        return g.sqrt_softplus(logits)
