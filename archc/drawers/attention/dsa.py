"""Sparse attention over latents (DeepSeek-V3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from archc.drawers.attention.mla import Mla
from archc.drawers.indexer._doubts import doubts
from archc.schema import Doubt, Indexer, Problem, Scores, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Dsa(Mla):
    """Latent attention to the tokens that an indexer picks (DeepSeek-V3.2, arXiv:2512.02556; GLM-5)."""

    q_rank: int = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "width of the latent that queries and index queries are made of", unit="channels", gt=0
    )
    indexer: Indexer = field("picks the tokens that a token attends to")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for misfit in self.indexer.misfits(self.rope_dim):
            fields = (*(f"indexer.{name}" for name in misfit.fields), "rope_dim")
            yield Problem(fields=fields, message=misfit.message, help=misfit.help)

    def doubts(self, context: int) -> Iterator[Doubt]:
        yield from doubts(self.indexer, context, instead="take mla")

    def about(self) -> str:
        """With what the cache keeps of a token, and what is read of it."""
        return (
            f"Latent attention to the tokens that an indexer picks: at most {self.indexer.most()} (DeepSeek-V3.2,"
            f" arXiv:2512.02556, section 2.1).\n\nOf a token the cache keeps its latent, {self.rope_dim} key channels"
            " that all heads share, and an index key. Attention runs on the latents themselves: queries are mapped to"
            " their space, and what they read is mapped to values."
        )

    def build(self, g: Builder, x: Value) -> Value:
        q_latent = self.q_latent(g, x, self.q_rank)
        q = self.queries(g, q_latent)
        entries = self.entries(g, x)
        picks, scores = self.indexer.build(g, x, q_latent, self.rotate())
        out = self.attend(g, q, entries, picks, scores)
        return g.linear("o_proj", g.flatten(out), out=self.dim, bias=self.bias, role="output")

    def rotate(self) -> Callable[..., Value]:
        """What turns channels of index queries and keys as the rope turns those of queries."""
        if self.rope is None:
            return lambda g, x, **_: x
        return partial(self.rope.build, last=self.rope_dim)

    def attend(self, g: Builder, q: Value, entries: Value, picks: Value, scores: Scores) -> Value:
        """What queries read of the tokens they picked [B, S, heads, v_dim]. The indexer learns from it."""
        weight = g.param("kv_b_proj.weight", (self.heads * (self.nope_dim + self.v_dim), self.kv_rank))
        fields = {"nope": self.nope_dim, "scale": self.scale}
        if not self.indexer.loss_weight:
            return g.sparse_latent_attend(q, entries, weight, g.time, picks, **fields)
        # The op gives two values with `lse`, which its signature does not say.
        y, lse = g.sparse_latent_attend(q, entries, weight, g.time, picks, **fields, lse=True)  # pyright: ignore[reportGeneralTypeIssues]
        with g.component("indexer"):
            g.index_divergence(
                *scores, q, entries, lse, g.time, weight, picks, weight=self.indexer.loss_weight, **fields
            )
        return y
