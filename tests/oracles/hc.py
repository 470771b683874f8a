"""Hyper-connections on one row: equations 1 to 13 of arXiv:2409.19606, in the paper's letters.

A_m [n, 1] and A_r [n, n] weigh the hidden vectors H [n, D] that are read, rows first: the next ones are A_r^T H. B
[1, n] spreads the output of a layer T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.oracles.rows import Array, Weights, rms_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Hc:
    """``rate`` is the expansion rate n. The paper's norm is any; ours is RMS without weight."""

    rate: int
    dynamic: bool = True
    norm_eps: float = 1e-6

    def matrices(self, weights: Weights, prefix: str, hidden: Array) -> tuple[Array, Array, Array]:
        """B [1, n], A_m [n, 1] and A_r [n, n] for the hidden vectors H [n, D] of a token."""
        n = self.rate
        b, a_m, a_r = weights[prefix + "post"][None], weights[prefix + "pre"][:, None], weights[prefix + "comb"]
        if not self.dynamic:
            return b, a_m, a_r
        s_alpha, s_beta = weights[prefix + "scale"]
        w_m, w_beta, w_r = np.split(weights[prefix + "fn"].T, [1, 2], axis=1)
        normed = np.stack([rms_norm(hidden[i], None, self.norm_eps) for i in range(n)])
        return (
            s_beta * np.tanh(normed @ w_beta).T + b,
            s_alpha * np.tanh(normed @ w_m) + a_m,
            s_alpha * np.tanh(normed @ w_r) + a_r,
        )

    def forward(self, weights: Weights, x: Array, sublayers: list[tuple[str, Callable[[Array], Array]]]) -> Array:
        """[S, D] out of the embedding x [S, D]: copied n times, named layers [S, D] -> [S, D], rows summed."""
        return self.through(weights, np.stack([np.repeat(row[None], self.rate, axis=0) for row in x]), sublayers)[0]

    def through(
        self, weights: Weights, streams: Array, sublayers: list[tuple[str, Callable[[Array], Array]]]
    ) -> tuple[Array, Array]:
        """The sum of the hidden vectors [S, n, D] after the layers [S, D], and they themselves."""
        tokens = list(streams)
        for name, run in sublayers:
            made = [self.matrices(weights, f"{name}_hc.", token) for token in tokens]
            read = np.concatenate([(h.T @ a_m).T for (_, a_m, _), h in zip(made, tokens, strict=True)])
            given = run(read)
            tokens = [b.T @ out[None] + a_r.T @ h for (b, _, a_r), h, out in zip(made, tokens, given, strict=True)]
        return np.stack([token.sum(axis=0) for token in tokens]), np.stack(tokens)
