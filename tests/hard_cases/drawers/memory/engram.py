"""Hashed n-grams in a large table."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from archc.ops import Ring
from archc.ops.ngram import hash_multipliers, hash_primes
from archc.schema import field
from archc.schema.slots import Memory

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Engram(Memory):
    """N-grams of token ids, hashed into a large table, gated into every residual stream (Engram,
    arXiv:2601.07372)."""

    vocab: int = field("token ids", inherit="vocab", gt=0)
    compressed: int = field("ids after equal-looking tokens are merged", gt=0)
    pad: int = field("merged id that stands before a sequence", ge=0)
    layer: int = field("the layer it stands in, which seeds its hash", ge=0)
    orders: list[int] = field("lengths of the n-grams")
    heads: int = field("tables per length", gt=0)
    head_dim: int = field("channels of a row", unit="channels", gt=0)
    rows: int = field("rows of a table, before rounding up to a prime", gt=0)
    skip: int = field("primes that the tables of earlier layers took", default=0, ge=0)
    taps: int = field("taps of the short convolution", unit="tokens", default=4, gt=0)
    eps: float = field("of the norms of keys and queries", default=1e-6, ge=0)
    conv_eps: float = field("of the norm before the convolution", default=1e-5, ge=0)

    def build(self, g: Builder, streams: Value) -> Value:
        memory = self.recall(g)
        count, dim = streams.shape[2], streams.type.last
        assert isinstance(count, int)
        keys = g.unflatten(g.linear("key_proj", memory, out=count * dim), sizes=(count, dim))
        keys = g.rms_norm(None, keys, eps=self.eps) * g.param("k_weight", (count, dim), role="norm", init="ones")
        queries = g.rms_norm(None, streams, eps=self.eps) * g.param("q_weight", (count, dim), role="norm", init="ones")
        score = g.einsum(keys, queries, spec="bsmd,bsmd->bsm") / math.sqrt(dim)
        gate = g.sigmoid(g.signed_sqrt(score, floor=1e-6))
        value = g.linear("value_proj", memory, out=dim)
        gated = g.unsqueeze(gate, dim=-1) * g.unsqueeze(value, dim=-2)
        normed = g.rms_norm(None, gated, eps=self.conv_eps) * g.param(
            "conv_norm", (count, dim), role="norm", init="ones"
        )
        keep = (self.taps - 1) * max(self.orders)
        recent = g.recall(normed, g.state("values", Ring(keep=keep, shape=(count, dim))), g.time, keep=keep)
        mixed = g.silu(g.short_conv("conv_weight", recent, g.time, taps=self.taps, dilation=max(self.orders)))
        return streams + gated + mixed

    def recall(self, g: Builder) -> Value:
        """What the table holds of the n-grams that end with each token: [B, S, orders * heads * head_dim]."""
        ids = g.lookup(g.param("merged", (self.vocab,), dtype="int", init="zeros", buffer=True), g.tokens)
        keep = max(self.orders) - 1
        recent = g.recall(ids, g.state("ids", Ring(keep=keep, shape=(), dtype="int")), g.time, keep=keep)
        primes = self.primes()
        hashed = g.ngram_hash(
            recent,
            g.time,
            orders=tuple(self.orders),
            multipliers=hash_multipliers(self.layer, self.compressed, max(self.orders)),
            primes=primes,
            pad=self.pad,
        )
        return g.flatten(g.table_lookup("embed", hashed, rows=sum(primes), dim=self.head_dim))

    def primes(self) -> tuple[int, ...]:
        """Rows of each table."""
        count = len(self.orders) * self.heads
        return tuple(islice(hash_primes(self.rows), self.skip, self.skip + count))
