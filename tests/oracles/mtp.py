"""A module of multi-token prediction in the form of DeepSeek-V4 on one row, from `MTPBlock` of its inference code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.oracles.mhc import Mhc
from tests.oracles.rows import Array, Weights, rms_norm

Sublayer = tuple[str, str, Callable[[Array], Array]]
"""Name of its hyper-connection, name of its norm, and what it makes of the normed input [S, D]: [S, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MtpStreams:
    """``mhc`` None is a plain residual connection, whose stream is the only one."""

    mhc: Mhc | None
    eps: float = 1e-6

    def forward(
        self, weights: Weights, embedding: Array, streams: Array, sublayers: list[Sublayer]
    ) -> tuple[Array, Array]:
        """What the head gets [S, D], and the streams after the layer [S, M, D].

        Of the embedding [S, D] of the tokens ahead and the streams [S, M, D] before.
        """
        joined = np.zeros_like(streams)
        for t in range(len(streams)):
            e = weights["e_proj.weight"] @ rms_norm(embedding[t], weights["enorm.weight"], self.eps)
            for m in range(streams.shape[1]):
                h = rms_norm(streams[t, m], weights["hnorm.weight"], self.eps)
                joined[t, m] = e + weights["h_proj.weight"] @ h
        for name, norm, run in sublayers:
            joined = self._through(weights, joined, name, weights[norm + ".weight"], run)
        head = [self.mhc.head(weights, token) if self.mhc else token[0] for token in joined]
        return np.stack([rms_norm(h, weights["norm.weight"], self.eps) for h in head]), joined

    def _through(
        self, weights: Weights, streams: Array, name: str, norm: Array, run: Callable[[Array], Array]
    ) -> Array:
        """The streams after one sub-layer."""
        if self.mhc is None:
            y = run(np.stack([rms_norm(token[0], norm, self.eps) for token in streams]))
            return streams + y[:, None]
        entered = [self.mhc.coefficients(weights, f"{name}_hc.", token) for token in streams]
        x = [self.mhc.collapse(pre, token) for (pre, _, _), token in zip(entered, streams, strict=True)]
        y = run(np.stack([rms_norm(one, norm, self.eps) for one in x]))
        left = zip(entered, streams, y, strict=True)
        return np.stack([self.mhc.spread(post, comb, token, out) for (_, post, comb), token, out in left])
