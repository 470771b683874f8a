"""The lightning indexer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Rope, field
from archc.schema.slots import Compress, Indexer

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Lightning(Indexer):
    """Small heads score entries of a compressor of their own; the best are attended to (DeepSeek-V4,
    arXiv:2606.19348)."""

    heads: int = field("index heads", gt=0)
    head_dim: int = field("width of an index head", unit="channels", gt=0)
    topk: int = field("entries that a token attends to", gt=0)

    def build(self, g: Builder, x: Value, q_latent: Value, compress: Compress, rope: Rope) -> Value:
        """Ids of the entries each token attends to, -1 for none: [B, S, topk]."""

        def index(g: Builder, x: Value, q_latent: Value) -> Value:
            keys = compress.entries(g, x, self.head_dim, rope)
            q = g.linear("q_b_proj", q_latent, out=self.heads * self.head_dim)
            q = rope.build(g, g.unflatten(q, sizes=(self.heads, self.head_dim)))
            weights = g.call("scorer", "Scorer", self.scores, x, doc="What each index head counts for.")
            picks = g.index_topk(q, keys, weights, g.time, k=self.topk, every=compress.stride())
            return picks

        with g.component("indexer"):
            picks = g.call("indexer", "Indexer", index, x, q_latent, doc=type(self).__doc__)
        return picks

    def scores(self, g: Builder, x: Value) -> Value:
        """What each index head counts for: [B, S, heads]."""
        return g.linear("weights_proj", x, out=self.heads) * (self.heads * self.head_dim) ** -0.5
