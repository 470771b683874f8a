"""What compressors share: entries pooled by a learned softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

from archc.drawers.indexer._doubts import doubts
from archc.ops import Fp4Keys, Ring, Table
from archc.schema import Compress, Doubt, Far, Indexer, Problem, Scores, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value
    from archc.ops import Packing


class Pool(Compress):
    """Base of the compressors that pool a group of tokens channel by channel with a learned softmax."""

    source: ClassVar[str]
    """Where it is described."""

    ratio: int = field("tokens of a group", unit="tokens", gt=1)
    eps: float = field("of the norm of an entry", inherit="eps", ge=0)

    def overlaps(self) -> bool:
        """Whether a group also pools the tokens of the group before."""
        return False

    def picker(self) -> Indexer | None:
        """What picks the entries that a token attends to; None: all it sees."""
        return None

    def every(self) -> int:
        return self.ratio

    def misfits(self, rope_dim: int) -> Iterator[Problem]:
        picker = self.picker()
        for misfit in picker.misfits(rope_dim) if picker is not None else ():
            fields = tuple(f"indexer.{name}" for name in misfit.fields)
            yield Problem(fields=fields, message=misfit.message, help=misfit.help)

    def doubts(self, context: int) -> Iterator[Doubt]:
        if rest := context % self.ratio:
            yield Doubt(
                code="W0006",
                fields=("ratio",),
                message=f"ratio = {self.ratio} does not divide context = {context}",
                help=f"the last {rest} tokens of a full context never become an entry",
            )
        picker = self.picker()
        if picker is not None:
            yield from doubts(picker, context, every=self.ratio, instead="leave the indexer out")

    def about(self) -> str:
        """With how many tokens an entry is made of, and which entries a token attends to."""
        over = " over them and those before" if self.overlaps() else ""
        chosen = "an indexer picks those that a token attends to" if self.picker() else "a token attends to all it sees"
        return (
            f"Every {self.ratio} tokens make one entry, pooled channel by channel with a learned softmax{over};"
            f" {chosen} (DeepSeek-V4, arXiv:2606.19348, {self.source})."
        )

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

        def index_keys(g: Builder, x: Value, width: int) -> Value:
            return self.entries(g, x, width, rotate, Fp4Keys(), None if indexer is None else indexer.rounded)

        def compress(g: Builder, x: Value, q_latent: Value) -> tuple[Value, ...]:
            entries = self.entries(g, x, width, rotate, packing)
            if indexer is None:
                return (entries,)
            picks, scores = indexer.build(g, x, q_latent, rotate, keys=index_keys, every=self.every())
            return entries, picks, *scores

        cls = f"{type(self).__name__}Compressor"
        with g.component("compressor"):
            entries, *index = g.call("compressor", cls, compress, x, q_latent, doc=self.about())
        if indexer is None:
            return Far(entries)
        picks, *scores = index
        return Far(entries, picks, Scores(*scores), indexer.loss_weight)

    def entries(
        self,
        g: Builder,
        x: Value,
        width: int,
        rotate: Callable[..., Value],
        packing: Packing | None = None,
        rounded: Callable[[Builder, Value], Value] | None = None,
    ) -> Value:
        overlap = self.overlaps()
        wide = width * (1 + overlap)
        keep = self.ratio * (1 + overlap) - 1
        both = g.cat(g.linear("kv_proj", x, out=wide, role="pool"), g.linear("gate_proj", x, out=wide, role="pool"))
        recent = g.recall(both, g.state("tokens", Ring(keep=keep, shape=(2 * wide,))), g.time, keep=keep)
        tokens, exists = g.groups(recent, g.time, every=self.ratio, overlap=overlap)
        kv, score = g.split(tokens, sizes=(wide, wide))
        bias = g.param("position_bias", (self.ratio, wide), role="bias", init="zeros", dtype="fp32")
        entry = g.group_pool(kv, score, exists, bias, overlap=overlap)
        entry = g.rms_norm("kv_norm", entry, eps=self.eps)
        entry = rotate(g, entry, every=self.ratio)
        if rounded is not None:
            entry = rounded(g, entry)
        store = g.state("entries", Table(every=self.ratio, shape=(width,), packing=packing))
        return g.append(entry, store, g.time, every=self.ratio)
