"""The attention of DeepSeek-V4 on one row: a window, compressed entries picked by a lightning indexer, a sink.

Transcribed from the V4 paper, section 2.3, in the form of its inference code, without quantisation of keys; that of
index queries and keys is left out or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.oracles import two_stage
from tests.oracles.rope import Rope
from tests.oracles.rounding import rounded
from tests.oracles.rows import Array, Weights, best, rms_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Csa:
    """Sizes of the layer. ``every`` 0 leaves the compressor out; ``topk`` 0 attends to every visible entry (HCA);
    ``scale`` 0 stands for head_dim^-1/2; ``blocks`` 0 picks among all visible entries.
    """

    heads: int
    head_dim: int
    window: int
    rope: Rope
    out_groups: int
    eps: float = 1e-6
    scale: float = 0.0
    sinks: bool = True
    q_norm: bool = True
    every: int = 0
    overlap: bool = True
    topk: int = 0
    index_heads: int = 0
    index_dim: int = 0
    block: int = 0
    blocks: int = 0
    rounding: str = ""

    def forward(self, weights: Weights, x: Array, start: int = 0) -> Array:
        """y [S - start, D] of x [S, D], from token ``start`` on."""
        return np.stack([self._token(weights, x, t) for t in range(start, len(x))])

    def _token(self, weights: Weights, x: Array, t: int) -> Array:
        q_latent = self.q_latent(weights, x[t])
        queries = (weights["q_b_proj.weight"] @ q_latent).reshape(self.heads, self.head_dim)
        keys = [self._window_key(weights, x, s) for s in range(max(0, t - self.window + 1), t + 1)]
        if self.every:
            entries = self.entries(weights, "compressor.", x[: t + 1], self.head_dim)
            chosen = self.picks(weights, x, t) if self.topk else range(len(entries))
            keys += [entries[i] for i in chosen]
        heads = [self._head(weights, queries[h], keys, t, h) for h in range(self.heads)]
        return self._project_out(weights, np.concatenate(heads))

    def q_latent(self, weights: Weights, x: Array) -> Array:
        """The normed low-rank query of one token."""
        return rms_norm(weights["q_a_proj.weight"] @ x, weights["q_a_norm.weight"], self.eps)

    def _window_key(self, weights: Weights, x: Array, s: int) -> Array:
        kv = rms_norm(weights["kv_proj.weight"] @ x[s], weights["kv_norm.weight"], self.eps)
        return self.rope.turn(kv, s)

    def _head(self, weights: Weights, query: Array, keys: list[Array], t: int, h: int) -> Array:
        """One head of one token: softmax over the keys and the sink, values = keys, turned back by the query's
        position."""
        query = self.rope.turn(rms_norm(query, None, self.eps) if self.q_norm else query, t)
        logits = [float(query @ key) * (self.scale or self.head_dim**-0.5) for key in keys]
        sink = float(weights["sinks"][h]) if self.sinks else -math.inf
        top = max([*logits, sink])
        total = sum(math.exp(z - top) for z in logits) + math.exp(sink - top)
        out = np.zeros(self.head_dim)
        for z, key in zip(logits, keys, strict=True):
            out = out + math.exp(z - top) / total * key
        return self.rope.turn(out, t, direction=-1)

    def _project_out(self, weights: Weights, out: Array) -> Array:
        """Each group of heads through its own low-rank matrix, then all through one."""
        wide = len(out) // self.out_groups
        w_a = weights["o_a_proj.weight"]
        rank = len(w_a) // self.out_groups
        low = [w_a[g * rank : (g + 1) * rank] @ out[g * wide : (g + 1) * wide] for g in range(self.out_groups)]
        return weights["o_b_proj.weight"] @ np.concatenate(low)

    def entries(self, weights: Weights, prefix: str, x: Array, channels: int) -> list[Array]:
        """One entry per complete group of ``every`` tokens of x."""
        found = []
        for i in range(len(x) // self.every):
            pooled = self._pool(weights, prefix, x, i, channels)
            normed = rms_norm(pooled, weights[prefix + "kv_norm.weight"], self.eps)
            found.append(self.rope.turn(normed, i * self.every))
        return found

    def _pool(self, weights: Weights, prefix: str, x: Array, i: int, channels: int) -> Array:
        w_kv, w_gate = weights[prefix + "kv_proj.weight"], weights[prefix + "gate_proj.weight"]
        bias = weights[prefix + "position_bias"]
        slots: list[tuple[Array, Array]] = []
        for j in range(self.every):
            if self.overlap and i > 0:  # a token speaks to the next group with the first half of its channels
                token = x[(i - 1) * self.every + j]
                slots.append(((w_kv @ token)[:channels], (w_gate @ token + bias[j])[:channels]))
        for j in range(self.every):
            token = x[i * self.every + j]
            half = slice(channels, None) if self.overlap else slice(None)
            slots.append(((w_kv @ token)[half], (w_gate @ token + bias[j])[half]))
        pooled = np.zeros(channels)
        for c in range(channels):
            top = max(score[c] for _, score in slots)
            total = sum(math.exp(score[c] - top) for _, score in slots)
            pooled[c] = sum(math.exp(score[c] - top) / total * value[c] for value, score in slots)
        return pooled

    def indexed(self, weights: Weights, x: Array, t: int) -> tuple[list[Array], Callable[[Array], float]]:
        """The index keys of the entries that token t may see, and the score it gives a key."""
        prefix = "compressor.indexer."
        queries = (weights[prefix + "q_b_proj.weight"] @ self.q_latent(weights, x[t])).reshape(
            self.index_heads, self.index_dim
        )
        queries = np.stack([rounded(self.rope.turn(q, t), self.rounding) for q in queries])
        scale = self.index_dim**-0.5 * self.index_heads**-0.5
        mix = weights[prefix + "scorer.weights_proj.weight"] @ x[t] * scale
        entries = self.entries(weights, prefix, x[: t + 1], self.index_dim)
        keys = [rounded(entry, self.rounding) for entry in entries]
        return keys, lambda key: sum(float(mix[h]) * max(float(queries[h] @ key), 0.0) for h in range(self.index_heads))

    def index_scores(self, weights: Weights, x: Array, t: int) -> list[float]:
        """The score of every entry that token t may see."""
        keys, score = self.indexed(weights, x, t)
        return [score(key) for key in keys]

    def picks(self, weights: Weights, x: Array, t: int) -> list[int]:
        """Ids of the entries token t attends to, best first."""
        if self.blocks:
            return two_stage.picks(*self.indexed(weights, x, t), block=self.block, blocks=self.blocks, topk=self.topk)
        return best(self.index_scores(weights, x, t), self.topk)

    def margin(self, weights: Weights, x: Array, start: int = 0) -> float:
        """The smallest gap between the last score taken and the first left out: below rounding, the choice is not
        defined."""
        gaps = [math.inf]
        for t in range(start, len(x)):
            if self.blocks:
                sizes = {"block": self.block, "blocks": self.blocks, "topk": self.topk}
                gaps.append(two_stage.margin(*self.indexed(weights, x, t), **sizes))
                continue
            scores = sorted(self.index_scores(weights, x, t), reverse=True)
            if len(scores) > self.topk:
                gaps.append(scores[self.topk - 1] - scores[self.topk])
        return min(gaps)
