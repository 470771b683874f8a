"""A mixture of experts with a shared expert, on one row: DeepSeek-V3's sigmoid routing with a bias and groups.

From the V3 paper, section 2.1.2, and its inference code; also DeepSeek-V4's sqrt(softplus) scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tests.oracles.rows import Array, Weights, best, sigmoid, silu, swiglu_mlp


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """``active`` of ``experts`` per token, out of the ``keep_groups`` best of ``groups``."""

    experts: int
    active: int
    groups: int = 1
    keep_groups: int = 1
    scale: float = 1.0
    scoring: Literal["sigmoid", "sqrt_softplus"] = "sigmoid"
    limit: float | None = None

    def scores(self, weights: Weights, x: Array) -> Array:
        """The affinity of one token to every expert: [E]."""
        logits = weights["gate.weight"] @ x
        return sigmoid(logits) if self.scoring == "sigmoid" else np.sqrt(np.log1p(np.exp(logits)))

    def chosen(self, weights: Weights, x: Array) -> list[int]:
        """The experts of one token, best first; the bias takes part in the choice only."""
        biased = self.scores(weights, x) + weights["gate.e_score_correction_bias"]
        size = self.experts // self.groups
        allowed = list(range(self.experts))
        if self.groups > 1:
            worth = [sum(sorted(biased[g * size : (g + 1) * size], reverse=True)[:2]) for g in range(self.groups)]
            kept = best([float(w) for w in worth], self.keep_groups)
            allowed = [e for e in allowed if e // size in kept]
        return best([float(biased[e]) if e in allowed else -math.inf for e in range(self.experts)], self.active)

    def routed(self, weights: Weights, x: Array) -> Array:
        """What the chosen experts add for one token: [D]."""
        scores = self.scores(weights, x)
        chosen = self.chosen(weights, x)
        total = sum(float(scores[e]) for e in chosen) + 1e-20
        y = np.zeros(len(x))
        for e in chosen:
            both = weights["experts.gate_up_proj"][e] @ x
            hidden = len(both) // 2
            gate, up = both[:hidden], both[hidden:]
            if self.limit is not None:
                gate, up = np.minimum(gate, self.limit), np.clip(up, -self.limit, self.limit)
            y = y + scores[e] / total * self.scale * (weights["experts.down_proj"][e] @ (silu(gate) * up))
        return y

    def forward(self, weights: Weights, x: Array) -> Array:
        """y [S, D] of x [S, D]."""
        return np.stack([self.routed(weights, t) + swiglu_mlp(weights, "shared_experts.", t, self.limit) for t in x])
