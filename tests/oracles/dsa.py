"""Latent attention to the tokens that an indexer picks, on one row, one head and one key at a time, keys and values
expanded.

Transcribed from the DeepSeek-V3.2 paper (arXiv:2512.02556, section 2.1) in the form of its inference code, the
rounding of index queries and keys being left out or not. GLM-5 turns other pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.oracles import two_stage
from tests.oracles.mla import Mla
from tests.oracles.rounding import rounded
from tests.oracles.rows import Array, Weights, best, rms_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsa(Mla):
    """Sizes of the layer; ``first``: the first channels of an index head turn, else the last; ``half``: channel i
    pairs with i + rope_dim / 2, else with its neighbour. ``blocks`` 0 picks among all tokens.
    """

    index_heads: int
    index_dim: int
    topk: int
    first: bool
    half: bool
    block: int = 0
    blocks: int = 0
    rounding: str = ""

    def forward(self, weights: Weights, x: Array, start: int = 0) -> Array:
        keys, values = zip(*(self._key(weights, x[s], s) for s in range(len(x))), strict=True)
        found = self.index_keys(weights, x)
        outs = []
        for t in range(start, len(x)):
            chosen = self.picks(weights, x, t, found)
            read = [([keys[s][h] for s in chosen], [values[s][h] for s in chosen]) for h in range(self.heads)]
            queries = self._queries(weights, x[t], t)
            heads = [self._head(query, *pairs) for query, pairs in zip(queries, read, strict=True)]
            outs.append(self._linear(weights, "o_proj", np.concatenate(heads)))
        return np.stack(outs)

    def _head(self, query: Array, keys: list[Array], values: list[Array]) -> Array:
        logits = [self.scale * float(query @ key) for key in keys]
        top = max(logits)
        total = sum(math.exp(z - top) for z in logits)
        return sum((math.exp(z - top) / total * v for z, v in zip(logits, values, strict=True)), np.zeros(self.values))

    def index_keys(self, weights: Weights, x: Array) -> list[Array]:
        """A key of every token."""
        return [self._index_key(weights, x[s], s) for s in range(len(x))]

    def score(self, weights: Weights, x: Array, t: int) -> Callable[[Array], float]:
        """What token t gives a key."""
        latent = rms_norm(self._linear(weights, "q_a_proj", x[t]), weights["q_a_layernorm.weight"], self.eps)
        wide = weights["indexer.wq_b.weight"] @ latent
        queries = [
            rounded(self._turn_index(q, t), self.rounding) for q in wide.reshape(self.index_heads, self.index_dim)
        ]
        mix = weights["indexer.weights_proj.weight"] @ x[t] * self.index_heads**-0.5
        return lambda key: sum(
            float(w) * self.index_dim**-0.5 * max(float(q @ key), 0.0) for w, q in zip(mix, queries, strict=True)
        )

    def _index_key(self, weights: Weights, x: Array, s: int) -> Array:
        key = weights["indexer.wk.weight"] @ x
        centred = key - np.mean(key)
        normed = centred / math.sqrt(float(np.mean(centred * centred)) + 1e-6)
        key = self._turn_index(normed * weights["indexer.k_norm.weight"] + weights["indexer.k_norm.bias"], s)
        return rounded(key, self.rounding)

    def _turn_index(self, x: Array, position: int) -> Array:
        """x with its pairs of channels turned, one by one."""
        if self.rope is None:
            return x
        y, start = x.copy(), 0 if self.first else len(x) - self.rope_dim
        for i in range(self.rope_dim // 2):
            one, two = (i, i + self.rope_dim // 2) if self.half else (2 * i, 2 * i + 1)
            angle = position * self.rope.frequency(i)
            a, b = x[start + one], x[start + two]
            y[start + one] = a * math.cos(angle) - b * math.sin(angle)
            y[start + two] = b * math.cos(angle) + a * math.sin(angle)
        return y

    def picks(self, weights: Weights, x: Array, t: int, keys: list[Array]) -> list[int]:
        """Ids of the tokens that token t attends to, best first, by the index ``keys`` of all."""
        score, seen = self.score(weights, x, t), keys[: t + 1]
        if self.blocks:
            return two_stage.picks(seen, score, block=self.block, blocks=self.blocks, topk=self.topk)
        return best([score(key) for key in seen], self.topk)

    def margin(self, weights: Weights, x: Array, start: int = 0) -> float:
        """The smallest gap between what is taken last and what is left out first: below rounding, the choice is not
        defined.
        """
        keys = self.index_keys(weights, x)
        block, blocks = (self.block, self.blocks) if self.blocks else (len(x), 2)
        sizes = {"block": block, "blocks": blocks, "topk": self.topk}
        scores = (self.score(weights, x, t) for t in range(start, len(x)))
        return min(two_stage.margin(keys[: start + i + 1], score, **sizes) for i, score in enumerate(scores))
