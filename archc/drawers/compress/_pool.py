"""What compressors share: entries pooled by a learned softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from archc.ops import Ring, Table
from archc.schema import Compress, Far, Indexer, Scores, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value
    from archc.ops import Packing


class Pool(Compress):
    """Base of the compressors that pool a group of tokens channel by channel with a learned softmax."""

    ratio: int = field("tokens of a group", unit="tokens", gt=1)
    eps: float = field("of the norm of an entry", inherit="eps", ge=0)

    def overlaps(self) -> bool:
        """Whether a group also pools the tokens of the group before."""
        return False

    def picker(self) -> Indexer | None:
        """What picks the entries that a token attends to; None: all it sees."""
        return None

    def stride(self) -> int:
        return self.ratio

    def build(
        self,
        g: Builder,
        x: Value,
        q_latent: Value,
        width: int,
        rotate: Callable[..., Value],
        packing: Packing | None = None,
    ) -> Far:
        indexer = self.picker()

        def compress(g: Builder, x: Value, q_latent: Value) -> tuple[Value, ...]:
            entries = self.entries(g, x, width, rotate, packing)
            if indexer is None:
                return (entries,)
            picks, scores = indexer.build(g, x, q_latent, self, rotate)
            return entries, picks, *scores

        with g.component("compressor"):
            entries, *index = g.call("compressor", "Compressor", compress, x, q_latent, doc=self.about())
        if indexer is None:
            return Far(entries)
        picks, *scores = index
        return Far(entries, picks, Scores(*scores), indexer.loss_weight)

    def entries(
        self, g: Builder, x: Value, width: int, rotate: Callable[..., Value], packing: Packing | None = None
    ) -> Value:
        overlap = self.overlaps()
        wide = width * (1 + overlap)
        keep = self.ratio * (1 + overlap) - 1
        both = g.cat(g.linear("kv_proj", x, out=wide), g.linear("gate_proj", x, out=wide))
        recent = g.recall(both, g.state("tokens", Ring(keep=keep, shape=(2 * wide,))), g.time, keep=keep)
        tokens, exists = g.groups(recent, g.time, every=self.ratio, overlap=overlap)
        kv, score = g.split(tokens, sizes=(wide, wide))
        bias = g.param("position_bias", (self.ratio, wide), role="bias", init="zeros", dtype="fp32")
        entry = g.group_pool(kv, score, exists, bias, overlap=overlap)
        entry = rotate(g, g.rms_norm("kv_norm", entry, eps=self.eps), every=self.ratio)
        store = g.state("entries", Table(every=self.ratio, shape=(width,), packing=packing))
        return g.append(entry, store, g.time, every=self.ratio)
