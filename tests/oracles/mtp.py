"""A module of multi-token prediction in the form of DeepSeek-V4 on one row, from `MTPBlock` of its inference code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.oracles.hc import Hc
from tests.oracles.mhc import Mhc
from tests.oracles.rows import Array, Weights, rms_norm

Sublayer = tuple[str, str, Callable[[Array], Array]]
"""Name of its hyper-connection, name of its norm, and what it makes of the normed input [S, D]: [S, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MtpStreams:
    """``residual`` None is a plain residual connection, whose stream is the only one."""

    residual: Mhc | Hc | None
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
        normed = [(name, self._after(run, weights[norm + ".weight"])) for name, norm, run in sublayers]
        if self.residual is None:
            for _, run in normed:
                joined = joined + run(joined[:, 0])[:, None]
            head = joined[:, 0]
        else:
            head, joined = self.residual.through(weights, joined, normed)
        return np.stack([rms_norm(h, weights["norm.weight"], self.eps) for h in head]), joined

    def _after(self, run: Callable[[Array], Array], norm: Array) -> Callable[[Array], Array]:
        """A sub-layer after the norm of its input."""
        return lambda x: run(np.stack([rms_norm(token, norm, self.eps) for token in x]))
