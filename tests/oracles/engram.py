"""Engram (arXiv:2601.07372) on one row: hashed n-grams looked up in a table, gated into every residual stream.

The hash is that of the public demo; the gate is the code's (a signed square root before the sigmoid), which
equation 4 of the paper leaves out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tests.oracles.rows import Array, Weights, rms_norm, silu


def multipliers(layer: int, vocab: int, longest: int, seed: int = 0) -> list[int]:
    """The odd factors of a layer's hash, one per token of the longest n-gram; ``layer`` counts from zero."""
    rng = np.random.default_rng(seed + 10007 * layer)
    bound = max(1, (2**63 - 1) // vocab // 2)
    return [2 * int(r) + 1 for r in rng.integers(0, bound, size=longest, dtype=np.int64)]


def is_prime(n: int) -> bool:
    """Whether n is prime, by trial division."""
    if n < 2:
        return False
    return all(n % d for d in range(2, math.isqrt(n) + 1))


def table_sizes(start: int, layers: int, orders: int, heads: int) -> list[list[int]]:
    """Rows of each table: per layer a list by order, then head; every size is the next unused prime from ``start``
    on."""
    sizes: list[list[int]] = []
    last = start - 1
    for _ in range(layers):
        row = []
        for _ in range(orders * heads):
            last += 1
            while not is_prime(last):
                last += 1
            row.append(last)
        sizes.append(row)
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Engram:
    """``orders`` are the lengths of the n-grams, ``primes`` the rows per (order, head), order outermost."""

    streams: int
    orders: tuple[int, ...]
    heads: int
    multipliers: tuple[int, ...]
    primes: tuple[int, ...]
    pad: int
    eps: float = 1e-6
    conv_eps: float = 1e-5
    kernel: int = 4
    dilation: int = 3
    signed_root: bool = True
    bias: bool = False

    def rows(self, tokens: list[int], t: int) -> list[int]:
        """The rows of the table that token t reads, one per (order, head)."""
        found: list[int] = []
        offset = 0
        for o, order in enumerate(self.orders):
            mix = 0
            for back in range(order):
                token = tokens[t - back] if t - back >= 0 else self.pad
                mix ^= token * self.multipliers[back]
            for h in range(self.heads):
                prime = self.primes[o * self.heads + h]
                found.append(offset + mix % prime)
                offset += prime
        return found

    def gated(self, weights: Weights, tokens: list[int], t: int, streams: Array) -> Array:
        """The gated value of token t for each of its streams [M, D]: [M, D]."""
        memory = np.concatenate([weights["embed.weight"][row] for row in self.rows(tokens, t)])
        shift = weights if self.bias else {}
        value = weights["value_proj.weight"] @ memory + shift.get("value_proj.bias", 0.0)
        out = np.zeros_like(streams)
        for b in range(self.streams):
            key = weights[f"key_projs.{b}.weight"] @ memory + shift.get(f"key_projs.{b}.bias", 0.0)
            key = rms_norm(key, weights["key_norm.weight"][b], self.eps)
            query = rms_norm(streams[b], weights["query_norm.weight"][b], self.eps)
            s = float(key @ query) / math.sqrt(len(query))
            root = math.copysign(math.sqrt(max(abs(s), 1e-6)), s) if self.signed_root and s != 0.0 else s
            out[b] = value / (1.0 + math.exp(-root))
        return out

    def forward(self, weights: Weights, tokens: list[int], streams: Array) -> Array:
        """The streams [S, M, D] with what the memory says added to each."""
        gated = [self.gated(weights, tokens, t, streams[t]) for t in range(len(tokens))]
        after = streams.copy()
        for t in range(len(tokens)):
            for b in range(self.streams):
                mixed = np.zeros(streams.shape[-1])  # without taps: silu(0) is 0
                for tap in range(self.kernel):  # the last tap is the token itself
                    s = t - (self.kernel - 1 - tap) * self.dilation
                    if s >= 0:
                        normed = rms_norm(gated[s][b], weights["conv.norm.weight"][b], self.conv_eps)
                        mixed = mixed + weights["conv.weight"][b, :, tap] * normed
                after[t, b] = streams[t, b] + gated[t][b] + silu(mixed)
        return after
