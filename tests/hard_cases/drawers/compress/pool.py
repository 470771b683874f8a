"""Entries pooled by a learned softmax (DeepSeek-V4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.ops import Ring, Table
from archc.schema import Rope, field
from archc.schema.slots import Compress, Indexer

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Pool(Compress):
    """One entry per group of tokens, pooled channel by channel with a learned softmax (DeepSeek-V4,
    arXiv:2606.19348)."""

    every: int = field("tokens of a group", unit="tokens", gt=1)
    overlap: bool = field("a group also pools the tokens of the group before", default=False)
    eps: float = field("of the norm of an entry", default=1e-6, ge=0)
    indexer: Indexer | None = field("picks the entries that a token attends to; all when left out", default=None)

    def stride(self) -> int:
        return self.every

    def build(self, g: Builder, x: Value, q_latent: Value, width: int, rope: Rope) -> tuple[Value, Value | None]:
        """Every entry so far [B, T // every, width], and which of them each token attends to [B, S, k]."""

        def compress(g: Builder, x: Value, q_latent: Value) -> tuple[Value, ...]:
            entries = self.entries(g, x, width, rope)
            if self.indexer is None:
                return (entries,)
            picks = self.indexer.build(g, x, q_latent, self, rope)
            return entries, picks

        entries, *picks = g.call("compressor", "Compressor", compress, x, q_latent, doc=type(self).__doc__)
        return entries, picks[0] if picks else None

    def entries(self, g: Builder, x: Value, width: int, rope: Rope) -> Value:
        """Every entry so far: [B, T // every, width]."""
        wide = width * (1 + self.overlap)
        keep = self.every * (1 + self.overlap) - 1
        both = g.cat(g.linear("kv_proj", x, out=wide), g.linear("gate_proj", x, out=wide))
        recent = g.recall(both, g.state("tokens", Ring(keep=keep, shape=(2 * wide,))), g.time, keep=keep)
        tokens, exists = g.groups(recent, g.time, every=self.every, overlap=self.overlap)
        kv, score = g.split(tokens, sizes=(wide, wide))
        bias = g.param("position_bias", (self.every, wide), role="bias", init="zeros", dtype="fp32")
        entry = g.group_pool(kv, score, exists, bias, overlap=self.overlap)
        entry = rope.build(g, g.rms_norm("kv_norm", entry, eps=self.eps), every=self.every)
        return g.append(entry, g.state("entries", Table(every=self.every, shape=(width,))), g.time, every=self.every)
