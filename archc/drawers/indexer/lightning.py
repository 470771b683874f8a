"""The lightning indexer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from archc.ops import Fp8Tiles, Table
from archc.schema import Indexer, Norm, Problem, Scores, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value

Keys = Callable[["Builder", "Value", int], "Value"]


class Lightning(Indexer):
    """Small heads score tokens or compressed entries, and pick the best (DeepSeek-V3.2, arXiv:2512.02556)."""

    heads: int = field("index heads", gt=0)
    head_dim: int = field("width of an index head", unit="channels", gt=0)
    topk: int = field("entries that a token attends to", gt=0)
    end: Literal["first", "last"] = field("which end of an index head is rotated", default="last")
    pairs: Literal["half", "interleaved"] | None = field(
        "which of its channels form a pair, (i, i + dim / 2) or (2i, 2i + 1); as in the attention when left out",
        default=None,
    )
    key_norm: Norm | None = field("norm of the keys of tokens; entries of a compressor have their own", default=None)

    rounding: Literal["fp8", "fp4"] | None = field(
        "format that queries and keys are rounded to, after a Hadamard transform that spreads channels that stand out",
        default=None,
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.rounding is not None and self.head_dim & (self.head_dim - 1):
            yield Problem(
                fields=("head_dim", "rounding"),
                message=f"head_dim = {self.head_dim} is no power of two, and there is no Hadamard transform of it",
                help="leave `rounding` out, or take an index head of 64 or 128 channels",
            )

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
        return self._says(of_tokens=False)

    def _says(self, *, of_tokens: bool) -> str:
        heads = "One small head scores" if self.heads == 1 else f"{self.heads} small heads score"
        scored, source = "entries of a compressor of their own", "DeepSeek-V4, arXiv:2606.19348, section 2.3.1"
        if of_tokens:
            scored, source = "tokens by one key of each", "DeepSeek-V3.2, arXiv:2512.02556, section 2.1"
        best = "best one is" if self.topk == 1 else f"{self.topk} best are"
        says = f"{heads} {scored}; the {best} attended to ({source})."
        if self.rounding is None:
            return says
        return (
            f"{says}\n\nQueries and keys go through a Hadamard transform and are rounded to {self.rounding.upper()},"
            " as in DeepSeek's inference code; gradients pass straight through."
        )

    def build(
        self,
        g: Builder,
        x: Value,
        q_latent: Value,
        rotate: Callable[..., Value],
        *,
        keys: Keys | None = None,
        every: int = 1,
    ) -> tuple[Value, Scores]:
        given = keys

        def index(g: Builder, x: Value, q_latent: Value) -> tuple[Value, ...]:
            # Of both kinds the names are those of transformers
            keys = self.own_keys(g, x, rotate) if given is None else given(g, x, self.head_dim)
            name = "wq_b" if given is None else "q_b_proj"
            q = g.linear(name, q_latent, out=self.heads * self.head_dim)
            q = rotate(g, g.unflatten(q, sizes=(self.heads, self.head_dim)), end=self.end, pairs=self.pairs)
            q = self.rounded(g, q)
            scorer = "weights_proj" if given is None else "scorer.weights_proj"
            weights = g.linear(scorer, x, out=self.heads, role="scorer") * (self.heads * self.head_dim) ** -0.5
            picks = self.pick(g, q, keys, weights, every)
            return picks, q, keys, weights

        doc = self._says(of_tokens=given is None)
        with g.component("indexer"):
            x, q_latent = g.detach(x), g.detach(q_latent)
            picks, index_q, index_keys, index_weights = g.call("indexer", "Indexer", index, x, q_latent, doc=doc)
        return picks, Scores(index_q, index_keys, index_weights)

    def own_keys(self, g: Builder, x: Value, rotate: Callable[..., Value]) -> Value:
        """A key of each token so far [B, T, head_dim]."""
        key = rotate(g, self.normed(g, g.linear("wk", x, out=self.head_dim)), end=self.end, pairs=self.pairs)
        key = self.rounded(g, key)
        return g.append(key, g.state("keys", Table(every=1, shape=(self.head_dim,), packing=Fp8Tiles())), g.time)

    def normed(self, g: Builder, key: Value) -> Value:
        """The key as the index meets it, but for its position."""
        return key if self.key_norm is None else self.key_norm.build(g, key, "k_norm")

    def rounded(self, g: Builder, x: Value) -> Value:
        return x if self.rounding is None else g.quantise(g.hadamard(x), to=self.rounding)

    def pick(self, g: Builder, q: Value, keys: Value, weights: Value, every: int) -> Value:
        """Ids of the entries that each token attends to [B, S, K], -1 for none, by queries [B, S, heads, head_dim], a
        key of every entry and a weight of every head [B, S, heads].
        """
        return g.index_topk(q, keys, weights, g.time, k=self.topk, every=every)

    def tiny(self) -> dict[str, Any]:
        wide = 24 if self.rounding is None else 32
        return {"heads": min(self.heads, 4), "head_dim": min(self.head_dim, wide), "topk": min(self.topk, 6)}
