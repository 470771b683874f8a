"""A head that shares the embedding's weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Head

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Tied(Head):
    """Logits by the transposed embedding (Press and Wolf 2016, arXiv:1608.05859)."""

    def build(self, g: Builder, x: Value, embedding: Value, vocab: int) -> Value:
        return g.project(x, embedding)
