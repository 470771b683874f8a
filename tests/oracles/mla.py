"""Multi-head latent attention on one row, one head and one key at a time, keys and values expanded.

Transcribed from the DeepSeek-V2 paper, section 2.1, with the layout of its checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.oracles.rope import Rope
from tests.oracles.rows import Array, Weights, rms_norm, softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla:
    """Sizes of the layer. Without a ``rope`` nothing turns; without a ``q_rank`` queries come of the input."""

    heads: int
    q_rank: int | None
    kv_rank: int
    nope: int
    rope_dim: int
    values: int
    scale: float
    rope: Rope | None
    magnitude: float = 1.0
    """The factor on cosines and sines."""
    eps: float = 1e-6

    def forward(self, weights: Weights, x: Array, start: int = 0) -> Array:
        """y [S - start, D] of x [S, D], from token ``start`` on."""
        keys, values = zip(*(self._key(weights, x[s], s) for s in range(len(x))), strict=True)
        return np.stack([self._token(weights, x[t], keys, values, t) for t in range(start, len(x))])

    def _token(self, weights: Weights, x: Array, keys: tuple[Array, ...], values: tuple[Array, ...], t: int) -> Array:
        """keys[s] and values[s] are [heads, channels]."""
        outs = []
        for h, query in enumerate(self._queries(weights, x, t)):
            weight = softmax(np.array([self.scale * float(query @ keys[s][h]) for s in range(t + 1)]))
            outs.append(sum(weight[s] * values[s][h] for s in range(t + 1)))
        return self._linear(weights, "o_proj", np.concatenate(outs))

    def _queries(self, weights: Weights, x: Array, t: int) -> list[Array]:
        if self.q_rank is None:
            q = self._linear(weights, "q_proj", x)
        else:
            latent = rms_norm(self._linear(weights, "q_a_proj", x), weights["q_a_layernorm.weight"], self.eps)
            q = self._linear(weights, "q_b_proj", latent)
        width = self.nope + self.rope_dim
        heads = [q[h * width : (h + 1) * width] for h in range(self.heads)]
        return [np.concatenate([head[: self.nope], self._turn(head[self.nope :], t)]) for head in heads]

    def _key(self, weights: Weights, x: Array, s: int) -> tuple[Array, Array]:
        """Keys [heads, nope + rope_dim] and values [heads, values] of one token."""
        kv = self._linear(weights, "kv_a_proj_with_mqa", x)
        latent = rms_norm(kv[: self.kv_rank], weights["kv_a_layernorm.weight"], self.eps)
        shared = self._turn(kv[self.kv_rank :], s)
        wide = self._linear(weights, "kv_b_proj", latent)
        both = self.nope + self.values
        heads = [wide[h * both : (h + 1) * both] for h in range(self.heads)]
        keys = [np.concatenate([head[: self.nope], shared]) for head in heads]
        return np.stack(keys), np.stack([head[self.nope :] for head in heads])

    def _turn(self, x: Array, position: int) -> Array:
        return x if self.rope is None else self.magnitude * self.rope.turn(x, position)

    @staticmethod
    def _linear(weights: Weights, name: str, x: Array) -> Array:
        y = weights[f"{name}.weight"] @ x
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y
