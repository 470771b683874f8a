"""Equations that several oracles need: one vector in, one vector out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), elementwise."""
    return 1.0 / (1.0 + np.exp(-x))


def silu(x: Array) -> Array:
    """x * sigmoid(x), elementwise."""
    return x * sigmoid(x)


def rms_norm(x: Array, weight: Array | None, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps), times ``weight`` where there is one: [D]."""
    y = x / math.sqrt(float(np.mean(x * x)) + eps)
    return y if weight is None else y * weight


def softmax(z: Array) -> Array:
    """exp(z) / sum(exp(z)) of one vector; entries of -inf get exactly zero."""
    e = np.exp(z - np.max(z))
    return e / e.sum()


def swiglu_mlp(weights: Weights, prefix: str, x: Array, limit: float | None = None) -> Array:
    """down(silu(gate(x)) * up(x)): [D]. With a limit, gate is cut above and up on both sides, before the
    activation."""
    gate = weights[prefix + "gate_proj.weight"] @ x
    up = weights[prefix + "up_proj.weight"] @ x
    if limit is not None:
        gate = np.minimum(gate, limit)
        up = np.clip(up, -limit, limit)
    return weights[prefix + "down_proj.weight"] @ (silu(gate) * up)


def best(scores: list[float], k: int) -> list[int]:
    """The indices of the k largest scores, largest first, ties to the lower index; fewer where there are fewer
    finite scores."""
    chosen: list[int] = []
    while len(chosen) < k:
        pick = None
        for i, score in enumerate(scores):
            if i in chosen or score == -math.inf:
                continue
            if pick is None or score > scores[pick]:
                pick = i
        if pick is None:
            break
        chosen.append(pick)
    return chosen
