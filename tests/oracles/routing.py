"""Routers and what levels their loads, token by token: choices, weights, loads and both balance losses.

From the papers of DeepSeek-V2 (arXiv:2405.04434), DeepSeek-V3 (arXiv:2412.19437) and Switch Transformer
(arXiv:2101.03961; here every choice of a token counts, and the layers are taken together).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.oracles.rows import Array, best, sigmoid, softmax

Choice = tuple[list[int], list[float]]
"""The experts of a token, best first, and their weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """``active`` experts per token, out of the ``keep_groups`` best of ``groups``."""

    active: int
    groups: int = 1
    keep_groups: int = 1
    scale: float = 1.0
    renormalise: bool = False

    def allowed(self, scores: list[float], of_group: int) -> list[float]:
        """The scores, -inf outside the best groups; a group is worth the sum of its ``of_group`` best."""
        size = len(scores) // self.groups
        worth = [sum(sorted(scores[g * size : (g + 1) * size])[-of_group:]) for g in range(self.groups)]
        kept = best(worth, self.keep_groups)
        return [s if e // size in kept else -math.inf for e, s in enumerate(scores)]

    def weighed(self, values: list[float]) -> list[float]:
        """The weights of a token's experts."""
        total = sum(values) if self.renormalise else 1.0
        return [v / total * self.scale for v in values]

    def probable(self, logits: Array) -> Choice:
        """The most probable experts."""
        scores = softmax(logits).tolist()
        ids = best(self.allowed(scores, 1), self.active)
        return ids, self.weighed([scores[e] for e in ids])

    def among_best(self, logits: Array) -> Choice:
        """The experts of largest logits, weighed by a softmax over these."""
        ids = best(self.allowed(logits.tolist(), 1), self.active)
        return ids, self.weighed(softmax(logits[ids]).tolist())

    def biased(self, logits: Array, bias: Array, scoring: Callable[[Array], Array] = sigmoid) -> Choice:
        """The experts of largest score plus bias, weighed by the score: the sigmoid, unless told otherwise."""
        scores = scoring(logits)
        ids = best(self.allowed((scores + bias).tolist(), 2), self.active)
        return ids, self.weighed([float(scores[e]) for e in ids])


def loads(choices: Sequence[Sequence[int]], experts: int) -> list[int]:
    """How many tokens chose each expert."""
    return [sum(ids.count(e) for ids in map(list, choices)) for e in range(experts)]


def sequence_balance(scores: Array, choices: Sequence[Sequence[int]]) -> float:
    """The loss of one sequence: scores [T, E], the K experts of each token."""
    tokens, experts = scores.shape
    k = len(choices[0])
    total = 0.0
    for e in range(experts):
        f = experts / (k * tokens) * sum(e in ids for ids in choices)
        p = sum(float(scores[t, e] / scores[t].sum()) for t in range(tokens)) / tokens
        total += f * p
    return total


def batch_balance(layers: Sequence[tuple[Array, Sequence[Sequence[int]]]]) -> float:
    """The loss of all layers together: for each the probabilities [T, E] and the experts of each token."""
    experts = layers[0][0].shape[1]
    tokens = sum(len(scores) for scores, _ in layers)
    total = 0.0
    for e in range(experts):
        chosen = sum(sum(e in ids for ids in choices) for _, choices in layers) / tokens
        probable = float(np.concatenate([scores[:, e] for scores, _ in layers]).sum()) / tokens
        total += chosen * probable
    return experts * total
