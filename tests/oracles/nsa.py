"""Native sparse attention, one query at a time, from the equations of Yuan et al. 2025 (arXiv:2502.11089, section 3).

Equation 5 sums the branches by their gates; 7 makes an entry of a block of tokens; 8 to 10 score blocks by the weights
of entries, over the heads that share a key; 11 and 12 take the tokens of the best. Positions turn queries, the keys of
tokens, and entries at their block's first token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tests.oracles.rope import Rope
from tests.oracles.rows import Array, Weights, best, sigmoid, silu, softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Nsa:
    """Sizes of the layer, by the names of the paper: entries of ``l`` tokens every ``d``, ``n`` blocks of ``chosen``
    tokens, a window of ``w``.
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_dim: int
    l: int  # noqa: E741 - the paper's name
    d: int
    chosen: int
    n: int
    initial: int
    local: int
    w: int
    mapping: str
    shared_gates: bool
    scale: float
    rope: Rope | None

    def forward(self, weights: Weights, x: Array, start: int = 0) -> Array:
        """y [S - start, D] of x [S, D], from token ``start`` on."""
        return np.stack([self._token(weights, x, t) for t in range(start, len(x))])

    def _token(self, weights: Weights, x: Array, t: int) -> Array:
        gates = self.gates(weights, x[t])
        queries = self.queries(weights, x, t)
        entries = self.entries(weights, x[: t + 1])
        tokens = {branch: self._tokens(weights, branch, x[: t + 1]) for branch in ("selected", "window")}
        heads = []
        for h in range(self.heads):
            group = h * self.kv_heads // self.heads
            seen = {
                "compressed": [(keys[group], values[group]) for keys, values in entries],
                "selected": [self._of(tokens["selected"][s], group) for s in self.picked(weights, x, t, group)],
                "window": [self._of(tokens["window"][s], group) for s in range(max(0, t - self.w + 1), t + 1)],
            }
            out = np.zeros(self.v_dim)
            for branch, pairs in enumerate(seen.values()):
                gate = gates[0 if self.shared_gates else h, branch]
                out = out + gate * self._attend(queries[h], pairs)
            heads.append(out)
        return weights["o_proj.weight"] @ np.concatenate(heads)

    @staticmethod
    def _of(pair: tuple[Array, Array], group: int) -> tuple[Array, Array]:
        return pair[0][group], pair[1][group]

    def gates(self, weights: Weights, x: Array) -> Array:
        """[heads or 1, 3]: compressed, selected, window."""
        if "gate_up.weight" in weights:
            x = silu(weights["gate_up.weight"] @ x)
        return sigmoid(weights["gate_proj.weight"] @ x).reshape(-1, 3)

    def queries(self, weights: Weights, x: Array, t: int) -> Array:
        """[heads, head_dim], turned."""
        rows = (weights["q_proj.weight"] @ x[t]).reshape(self.heads, self.head_dim)
        return np.stack([self._turn(row, t) for row in rows])

    def _turn(self, x: Array, position: int) -> Array:
        return x if self.rope is None else self.rope.turn(x, position)

    def _tokens(self, weights: Weights, branch: str, x: Array) -> list[tuple[Array, Array]]:
        """Key and value of every token of x, [kv_heads, width] each."""
        found = []
        for s, token in enumerate(x):
            keys = (weights[f"{branch}_k_proj.weight"] @ token).reshape(self.kv_heads, self.head_dim)
            values = (weights[f"{branch}_v_proj.weight"] @ token).reshape(self.kv_heads, self.v_dim)
            found.append((np.stack([self._turn(key, s) for key in keys]), values))
        return found

    def _attend(self, query: Array, pairs: list[tuple[Array, Array]]) -> Array:
        if not pairs:
            return np.zeros(self.v_dim)
        p = softmax(np.array([float(query @ key) * self.scale for key, _ in pairs]))
        return sum((p[i] * value for i, (_, value) in enumerate(pairs)), np.zeros(self.v_dim))

    def entries(self, weights: Weights, x: Array) -> list[tuple[Array, Array]]:
        """Key and value of every block of l tokens that lies within x, one every d tokens: [kv_heads, width] each."""
        found = []
        for i in range((len(x) - self.l) // self.d + 1 if len(x) >= self.l else 0):
            first = i * self.d
            keys, values = (
                np.stack([self._entry(weights, name, x[first : first + self.l], g) for g in range(self.kv_heads)])
                for name in ("key", "value")
            )
            found.append((np.stack([self._turn(key, first) for key in keys]), values))
        return found

    def _entry(self, weights: Weights, name: str, x: Array, group: int) -> Array:
        """phi of the tokens of one block, of one key-value head."""
        places = weights[f"compressor.{name}_positions"]
        width = places.shape[1]
        rows = slice(group * width, (group + 1) * width)
        block = [weights[f"compressor.{name}_proj.weight"][rows] @ token + places[j] for j, token in enumerate(x)]
        hidden = silu(weights[f"compressor.{name}_up.weight"] @ np.concatenate(block))
        return weights[f"compressor.{name}_down.weight"] @ hidden

    def scores(self, weights: Weights, x: Array, t: int, group: int) -> list[float]:
        """Equations 8 to 10: of every block that token t may see, infinite where it always attends to it."""
        entries = [keys[group] for keys, _ in self.entries(weights, x[: t + 1])]
        mass = np.zeros(len(entries))
        queries = self.queries(weights, x, t)
        for h in range(self.heads):
            if entries and h * self.kv_heads // self.heads == group:
                mass = mass + softmax(np.array([float(queries[h] @ key) * self.scale for key in entries]))
        own = t // self.chosen
        found = []
        for j in range(own + 1):
            if j < self.initial or j > own - self.local:
                found.append(math.inf)
                continue
            score = 0.0
            for m in range(self.chosen // self.d):
                for n in range(self.l // self.d):
                    i = self.chosen // self.d * j + {"overlap": m - n, "minus": -m - n, "plus": m + n}[self.mapping]
                    score += float(mass[i]) if 0 <= i < len(mass) else 0.0
            found.append(score)
        return found

    def picked(self, weights: Weights, x: Array, t: int, group: int) -> list[int]:
        """The tokens of the best blocks, up to t."""
        chosen = best(self.scores(weights, x, t, group), self.n)
        return [s for s in range(t + 1) if s // self.chosen in chosen]

    def margin(self, weights: Weights, x: Array, start: int = 0) -> float:
        """The smallest gap between the last block taken and the first left out, where both are not exactly 0: below
        rounding, the choice is not defined.
        """
        gaps = [math.inf]
        for t in range(start, len(x)):
            for group in range(self.kv_heads):
                scores = sorted(self.scores(weights, x, t, group), reverse=True)
                if len(scores) > self.n and scores[self.n - 1] > 0:
                    gaps.append(scores[self.n - 1] - scores[self.n])
        return min(gaps)
