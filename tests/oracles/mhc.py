"""Manifold-constrained hyper-connections in the form of DeepSeek-V4, on one row.

From the V4 inference code (`hc_split_sinkhorn`, `hc_pre`, `hc_post`): twenty normalisations that start with a
softmax over rows and end on columns; the first index of the mixing matrix is the stream that is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.oracles.rows import Array, Weights, rms_norm, sigmoid, softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Mhc:
    """``eps`` is the one of the mixing weights (hc_eps), ``norm_eps`` that of the norm before them."""

    streams: int
    iters: int = 20
    eps: float = 1e-6
    norm_eps: float = 1e-6

    def coefficients(self, weights: Weights, prefix: str, streams: Array) -> tuple[Array, Array, Array]:
        """pre [M], post [M], comb [M, M] of one token's streams [M, D]."""
        m = self.streams
        mixes = weights[prefix + "fn"] @ rms_norm(streams.reshape(-1), None, self.norm_eps)
        base, scale = weights[prefix + "base"], weights[prefix + "scale"]
        pre = sigmoid(mixes[:m] * scale[0] + base[:m]) + self.eps
        post = 2.0 * sigmoid(mixes[m : 2 * m] * scale[1] + base[m : 2 * m])
        logits = (mixes[2 * m :] * scale[2] + base[2 * m :]).reshape(m, m)
        return pre, post, self.doubly_stochastic(logits)

    def doubly_stochastic(self, logits: Array) -> Array:
        """Sinkhorn's iteration [M, M]: columns sum to one, rows nearly."""
        m = self.streams
        c = np.stack([softmax(row) + self.eps for row in logits])
        for round_ in range(self.iters):
            if round_ > 0:  # the softmax was the first pass over the rows
                for j in range(m):
                    c[j] = c[j] / (c[j].sum() + self.eps)
            for k in range(m):
                c[:, k] = c[:, k] / (c[:, k].sum() + self.eps)
        return c

    def collapse(self, pre: Array, streams: Array) -> Array:
        """The input of a sub-layer [D]."""
        return sum((pre[j] * streams[j] for j in range(self.streams)), np.zeros(streams.shape[1]))

    def spread(self, post: Array, comb: Array, streams: Array, y: Array) -> Array:
        """The streams after a sub-layer that gave y [D]: [M, D]."""
        after = np.zeros_like(streams)
        for k in range(self.streams):
            after[k] = post[k] * y
            for j in range(self.streams):
                after[k] = after[k] + comb[j, k] * streams[j]
        return after

    def forward(self, weights: Weights, x: Array, sublayers: list[tuple[str, Callable[[Array], Array]]]) -> Array:
        """[S, D] out of the embedding x [S, D] and named sub-layers [S, D] -> [S, D], collapsed at the end by the
        head."""
        streams = np.stack([np.stack([row] * self.streams) for row in x])
        for name, run in sublayers:
            entered = [self.coefficients(weights, f"{name}_hc.", token) for token in streams]
            y = run(np.stack([self.collapse(pre, token) for (pre, _, _), token in zip(entered, streams, strict=True)]))
            left = zip(entered, streams, y, strict=True)
            streams = np.stack([self.spread(post, comb, token, out) for (_, post, comb), token, out in left])
        return np.stack([self.head(weights, token) for token in streams])

    def head(self, weights: Weights, streams: Array) -> Array:
        """The streams of one token collapsed at the end of the model: [D]."""
        mixes = weights["hc_head.hc_fn"] @ rms_norm(streams.reshape(-1), None, self.norm_eps)
        pre = sigmoid(mixes * weights["hc_head.hc_scale"][0] + weights["hc_head.hc_base"]) + self.eps
        return self.collapse(pre, streams)
