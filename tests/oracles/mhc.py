"""Manifold-constrained hyper-connections on one row, in the form of DeepSeek-V4 and in that of the paper.

`Mhc` is from the V4 inference code (`hc_split_sinkhorn`, `hc_pre`, `hc_post`): twenty normalisations that start with a
softmax over rows and end on columns; the first index of the mixing matrix is the stream that is read. `SinglePassMhc`
makes the same weights and uses them as that of V4.1. `PaperMhc` is equations 5 to 9 of arXiv:2512.24880, where the
first index of H_res is the stream that is written.
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
        return self.through(weights, np.stack([np.stack([row] * self.streams) for row in x]), sublayers)[0]

    def through(
        self, weights: Weights, streams: Array, sublayers: list[tuple[str, Callable[[Array], Array]]]
    ) -> tuple[Array, Array]:
        """What the streams [S, M, D] collapse to after the sub-layers [S, D], and they themselves [S, M, D]."""
        for name, run in sublayers:
            entered = [self.coefficients(weights, f"{name}_hc.", token) for token in streams]
            y = run(np.stack([self.collapse(pre, token) for (pre, _, _), token in zip(entered, streams, strict=True)]))
            left = zip(entered, streams, y, strict=True)
            streams = np.stack([self.spread(post, comb, token, out) for (_, post, comb), token, out in left])
        return np.stack([self.head(weights, token) for token in streams]), streams

    def head(self, weights: Weights, streams: Array) -> Array:
        """The streams of one token collapsed at the end of the model: [D]."""
        mixes = weights["hc_head.hc_fn"] @ rms_norm(streams.reshape(-1), None, self.norm_eps)
        pre = sigmoid(mixes * weights["hc_head.hc_scale"][0] + weights["hc_head.hc_base"]) + self.eps
        return self.collapse(pre, streams)


class SinglePassMhc(Mhc):
    """The single-pass form of DeepSeek-V4.1 (`Block.forward` of its inference code): the weights that a sub-layer reads
    by are those that the sub-layer before made, of the streams that it was given; the first reads stream 0.
    """

    __slots__ = ()

    def through(
        self, weights: Weights, streams: Array, sublayers: list[tuple[str, Callable[[Array], Array]]]
    ) -> tuple[Array, Array]:
        """What the streams [S, M, D] collapse to by the weights of the last sub-layer, and they themselves."""
        carried = np.zeros(streams.shape[:2])
        carried[:, 0] = 1
        for name, run in sublayers:
            made = [self.coefficients(weights, f"{name}_hc.", token) for token in streams]
            y = run(np.stack([self.collapse(a, token) for a, token in zip(carried, streams, strict=True)]))
            left = zip(made, streams, y, strict=True)
            streams = np.stack([self.spread(post, comb, token, out) for (_, post, comb), token, out in left])
            carried = np.stack([pre for pre, _, _ in made])
        return np.stack([self.collapse(a, token) for a, token in zip(carried, streams, strict=True)]), streams


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperMhc:
    """The paper's own form. ``norm_eps`` is that of the RMSNorm, which the paper leaves open."""

    streams: int
    iters: int = 20
    norm_eps: float = 1e-6

    def mappings(self, weights: Weights, prefix: str, x: Array) -> tuple[Array, Array, Array]:
        """H_pre [1, n], H_post [1, n], H_res [n, n] of one token's streams x [n, C] (equations 7 and 8).

        Our tensors hold the transposed phi, scales in the order pre, post, res, and of H_res the transpose: its
        columns one after the other.
        """
        n = self.streams
        normed = rms_norm(x.reshape(-1), None, self.norm_eps)
        phi, bias, alpha = weights[prefix + "fn"].T, weights[prefix + "base"], weights[prefix + "scale"]
        logits = [
            alpha[part] * (normed @ phi[:, columns]) + bias[columns]
            for part, columns in enumerate((slice(0, n), slice(n, 2 * n), slice(2 * n, None)))
        ]
        return (
            sigmoid(logits[0]).reshape(1, n),
            2.0 * sigmoid(logits[1]).reshape(1, n),
            self.projected(logits[2].reshape(n, n).T),
        )

    def projected(self, logits: Array) -> Array:
        """H_res from its logits, both [to, from]: columns, then rows divided by their sums (equation 9)."""
        m = np.exp(logits)
        for _ in range(self.iters):
            m = m / m.sum(axis=0)[None, :]
            m = m / m.sum(axis=1)[:, None]
        return m

    def forward(self, weights: Weights, x: Array, sublayers: list[tuple[str, Callable[[Array], Array]]]) -> Array:
        """[S, C] out of the embedding x [S, C]: copied to the streams, named sub-layers, summed."""
        tokens = [np.tile(row, (self.streams, 1)) for row in x]
        for name, run in sublayers:
            maps = [self.mappings(weights, f"{name}_hc.", token) for token in tokens]
            y = run(np.concatenate([pre @ token for (pre, _, _), token in zip(maps, tokens, strict=True)]))
            tokens = [
                res @ token + post.T @ out[None, :] for (_, post, res), token, out in zip(maps, tokens, y, strict=True)
            ]
        return np.stack([token.sum(axis=0) for token in tokens])
