"""Hashed n-grams of token ids, looked up in a large table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from archc.ops import Ring
from archc.ops.ngram import hash_multipliers, hash_primes
from archc.schema import Doubt, Memory, Problem, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value

MOST_IDS = 1 << 30
"""Ids of which the hash can tell all: factors are under 2^62 / ids, and drawn as numbers above 2^32 are."""


class Engram(Memory):
    """N-grams of token ids, hashed into a large table and gated into every residual stream (Engram, arXiv:2601.07372).

    What a token reads depends on ids alone. Keys of what was read are compared with the streams, and each stream gets
    as much of its value as its own comparison says; a short convolution over the gated values is added.
    """

    vocab: int = field("token ids", unit="tokens", inherit="vocab", gt=0)
    orders: list[int] = field("lengths of the n-grams", unit="tokens", default=[2, 3])
    heads: int = field("hashes, each with a table of its own, for every length", gt=0)
    head_dim: int = field("channels of a row", unit="channels", gt=0)
    rows: int = field("rows of a table, before they are rounded up to a prime that no other table has", gt=0)
    placement: Literal["device", "host", "disk"] = field("where the tables lie", default="device")
    signed_root: bool = field(
        "the gate is the sigmoid of the comparison's root with its sign, as in the public code; false: of the"
        " comparison itself, as in equation 4 of the paper",
        default=True,
    )
    taps: int = field("taps of the short convolution; 0: there is none", unit="tokens", default=4, ge=0)
    dilation: int = field(
        "tokens from one tap to the next; the longest n-gram when left out",
        unit="tokens",
        default_factory=lambda f: max(f["orders"], default=1),
        gt=0,
    )
    bias: bool = field("biases in key_proj and value_proj", default=False)
    eps: float = field("of the norms of keys and streams", default=1e-6, ge=0)
    conv_eps: float = field("of the norm before the convolution", default=1e-5, ge=0)
    ids: int | None = field(
        "ids after tokens that look equal are merged: a buffer has that of each token; tokens are hashed as they are"
        " when left out",
        default=None,
        gt=0,
    )
    pad: int = field("id that stands before a sequence, after merging", default=0, ge=0)
    seed: int = field("seed of the hashes", default=0, ge=0)
    layer: int | None = field(
        "number of the layer that seeds its hashes, from 0; that on which it stands when left out", default=None, ge=0
    )
    sizes: list[int] | None = field(
        "rows of each table, the lengths outermost; when left out the next primes from `rows` on that no table of an"
        " earlier layer has",
        default=None,
    )

    def problems(self) -> Iterator[Problem]:
        if not self.orders or min(self.orders) < 1 or len(set(self.orders)) < len(self.orders):
            yield Problem(
                fields=("orders",),
                message=f"orders = {self.orders} are not lengths that differ, from 1 on",
                help="orders = [2, 3] looks up the last two and the last three tokens",
            )
        elif self.sizes is not None and len(self.sizes) != len(self.orders) * self.heads:
            yield Problem(
                fields=("sizes", "orders", "heads"),
                message=f"sizes has {len(self.sizes)} tables, but {len(self.orders)} lengths with {self.heads} hashes "
                f"each read {len(self.orders) * self.heads}",
            )
        if self.sizes is not None and min(self.sizes, default=1) < 1:
            yield Problem(fields=("sizes",), message="sizes has a table without rows")
        for length, size in self._twice():
            yield Problem(
                fields=("sizes",),
                message=f"sizes has two tables of {size} rows for {length} tokens: both hashes would be the same",
                help="hashes of one length differ by the rows of their tables alone",
            )
        if self.ids is not None and self.ids > self.vocab:
            yield Problem(
                fields=("ids", "vocab"), message=f"{self.vocab} tokens cannot be merged to more ids, ids = {self.ids}"
            )
        elif self.pad >= self.hashed():
            fields = ("pad", "vocab" if self.ids is None else "ids")
            yield Problem(fields=fields, message=f"pad = {self.pad} is no id: there are {self.hashed()}")
        if self.hashed() >= MOST_IDS:
            yield Problem(fields=("vocab",), message=f"hashes tell at most {MOST_IDS - 1} ids, not {self.hashed()}")

    def _twice(self) -> Iterator[tuple[int, int]]:
        """The first rows that two tables of a length share, with that length."""
        sizes = self.sizes or []
        for i, length in enumerate(self.orders):
            own = sizes[i * self.heads : (i + 1) * self.heads]
            if same := next((n for n in own if n and own.count(n) > 1), None):
                yield length, same
                return

    def doubts(self, context: int) -> Iterator[Doubt]:
        if not self.taps and self.dilation != max(self.orders):
            yield Doubt(
                code="W0009",
                fields=("dilation", "taps"),
                message=f"dilation = {self.dilation} has nothing to do: taps = 0 leaves the convolution out",
                help="leave it out, or give taps",
            )

    def about(self) -> str:
        """With how much there is to look up."""
        lengths = " and ".join(map(str, self.orders))
        return (
            f"{super().about()}\n\nA token reads {len(self.orders) * self.heads} rows: one for each of {self.heads} "
            f"hashes of the last {lengths} tokens, itself included. Multipliers and primes are those of a layer."
        )

    def hashed(self) -> int:
        """How many ids there are to hash."""
        return self.vocab if self.ids is None else self.ids

    def tiny(self) -> dict[str, Any]:
        ids = self.ids and max(1, self.ids * min(self.vocab, 512) // self.vocab)
        return {
            "heads": min(self.heads, 4),
            "head_dim": min(self.head_dim, 8),
            "rows": min(self.rows, 100),
            "vocab": min(self.vocab, 512),
            "ids": ids,
            "pad": self.pad % (ids or 512),
            "sizes": None,
        }

    def at(self, layer: int, earlier: Sequence[Memory]) -> Memory:
        taken = {n for memory in earlier if isinstance(memory, Engram) for n in memory.tables()}
        given = layer if self.layer is None else self.layer
        return self.model_copy(update={"layer": given, "sizes": list(self.tables(taken))})

    def tables(self, taken: frozenset[int] | set[int] = frozenset()) -> tuple[int, ...]:
        """Rows of each table, the lengths outermost, where earlier layers have tables of ``taken`` rows."""
        if self.sizes is not None:
            return tuple(self.sizes)
        free = (n for n in hash_primes(self.rows) if n not in taken)
        return tuple(islice(free, len(self.orders) * self.heads))

    def build(self, g: Builder, streams: Value) -> Value:
        memory = g.call("embed", "NgramEmbedding", self.recall)
        count, dim = streams.type.fixed(2), streams.type.last
        keys = g.linear("key_proj", memory, out=count * dim, bias=self.bias)
        keys = self.normed(g, g.unflatten(keys, sizes=(count, dim)), "k_weight", self.eps)
        queries = self.normed(g, streams, "q_weight", self.eps)
        score = g.einsum(keys, queries, spec="bsmd,bsmd->bsm") / math.sqrt(dim)
        gate = g.sigmoid(g.signed_sqrt(score, floor=1e-6) if self.signed_root else score)
        value = g.linear("value_proj", memory, out=dim, bias=self.bias)
        gated = g.unsqueeze(gate, dim=-1) * g.unsqueeze(value, dim=-2)
        if not self.taps:
            return streams + gated
        normed = self.normed(g, gated, "conv_norm", self.conv_eps)
        keep = (self.taps - 1) * self.dilation
        recent = g.recall(normed, g.state("values", Ring(keep=keep, shape=(count, dim))), g.time, keep=keep)
        mixed = g.silu(g.short_conv("conv_weight", recent, g.time, taps=self.taps, dilation=self.dilation))
        return streams + gated + mixed

    def normed(self, g: Builder, x: Value, name: str, eps: float) -> Value:
        """x [B, S, M, D] normed, with weights for every channel of every stream."""
        return g.rms_norm(None, x, eps=eps) * g.param(name, (x.type.fixed(2), x.type.last), role="norm", init="ones")

    def recall(self, g: Builder) -> Value:
        """One row of a table for each hash of the n-grams that end with a token.

        [B, S, orders * heads * head_dim]; made of ids alone, so that it can run ahead of the layers.
        """
        keep, sizes = max(self.orders) - 1, self.tables()
        ids = g.tokens
        if self.ids is not None:
            merged = g.param("merged", (self.vocab,), dtype="int", init="wrapped", below=self.ids, buffer=True)
            ids = g.lookup(merged, ids)
        recent = g.recall(ids, g.state("ids", Ring(keep=keep, shape=(), dtype="int")), g.time, keep=keep)
        hashed = g.ngram_hash(
            recent,
            g.time,
            orders=tuple(self.orders),
            multipliers=hash_multipliers(self.layer or 0, self.hashed(), max(self.orders), self.seed),
            primes=sizes,
            pad=self.pad,
        )
        table = {"rows": sum(sizes), "dim": self.head_dim, "placement": self.placement}
        return g.flatten(g.table_lookup("table", hashed, **table))
