"""The lightning indexer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from archc.ops import Fp4Keys
from archc.schema import Compress, Indexer, Problem, Scores, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Lightning(Indexer):
    """Small heads score entries of a compressor of their own, and pick the best (DeepSeek-V4, arXiv:2606.19348)."""

    heads: int = field("index heads", gt=0)
    head_dim: int = field("width of an index head", unit="channels", gt=0)
    topk: int = field("entries that a token attends to", gt=0)

    def misfits(self, rope_dim: int) -> Iterator[Problem]:
        if self.head_dim < rope_dim:
            yield Problem(
                fields=("head_dim",),
                message=f"rope_dim = {rope_dim} channels of an index head of head_dim = {self.head_dim}",
            )

    def most(self) -> int:
        return self.topk

    def about(self) -> str:
        """With how many heads score, and how many entries are taken."""
        heads = "One small head scores" if self.heads == 1 else f"{self.heads} small heads score"
        best = "best one is" if self.topk == 1 else f"{self.topk} best are"
        return (
            f"{heads} entries of a compressor of their own; the {best} attended to"
            " (DeepSeek-V4, arXiv:2606.19348, section 2.3.1)."
        )

    def build(
        self, g: Builder, x: Value, q_latent: Value, compress: Compress, rotate: Callable[..., Value]
    ) -> tuple[Value, Scores]:
        def index(g: Builder, x: Value, q_latent: Value) -> tuple[Value, ...]:
            keys = compress.entries(g, x, self.head_dim, rotate, Fp4Keys())
            q = g.linear("q_b_proj", q_latent, out=self.heads * self.head_dim)
            q = rotate(g, g.unflatten(q, sizes=(self.heads, self.head_dim)))
            weights = (
                g.linear("scorer.weights_proj", x, out=self.heads, role="scorer") * (self.heads * self.head_dim) ** -0.5
            )
            picks = g.index_topk(q, keys, weights, g.time, k=self.topk, every=compress.every())
            return picks, q, keys, weights

        with g.component("indexer"):
            x, q_latent = g.detach(x), g.detach(q_latent)
            picks, index_q, index_keys, index_weights = g.call(
                "indexer", "Indexer", index, x, q_latent, doc=self.about()
            )
        return picks, Scores(index_q, index_keys, index_weights)

    def tiny(self) -> dict[str, Any]:
        return {"heads": min(self.heads, 4), "head_dim": min(self.head_dim, 24), "topk": min(self.topk, 6)}
