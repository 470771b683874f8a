"""A head with a weight of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Head, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Untied(Head):
    """Logits by a linear map of its own."""

    bias: bool = field("a learned offset per token", default=False)

    def build(self, g: Builder, x: Value, embedding: Value, vocab: int) -> Value:
        return g.linear("lm_head", x, out=vocab, bias=self.bias, role="head")
