"""Hashed n-grams of token ids (Engram, arXiv:2601.07372)."""

from __future__ import annotations

import torch
from torch import Tensor

from .shift import shift
from .state import Clock


def ngram_hash(
    recent: Tensor,
    time: Clock,
    *,
    orders: tuple[int, ...],
    multipliers: tuple[int, ...],
    primes: tuple[int, ...],
    pad: int,
) -> Tensor:
    """Rows of the table that each new token reads, one per order and head: [B, S, len(primes)] int64.

    ``recent`` [B, R] are token ids, the last S of them the new ones. The hash of an n-gram is the exclusive or of
    token * multiplier over its tokens, the newest first. Each order has the same number of heads, each of which
    takes the hash modulo a prime of its own; the tables of all heads lie one after the other. Tokens before the
    start of a sequence read as ``pad``. Multipliers are such that products stay below 2^63, and never leave int64:
    doubles would lose bits.
    """
    heads = len(primes) // len(orders)
    rows: dict[int, Tensor] = {}
    mix = torch.zeros_like(recent[:, -time.new :])
    for back, multiplier in enumerate(multipliers[: max(orders)]):
        mix = mix ^ (shift(recent, time, back, fill=pad) * multiplier)
        rows[back + 1] = mix
    found, offset = [], 0
    for i, prime in enumerate(primes):
        found.append(rows[orders[i // heads]] % prime + offset)
        offset += prime
    return torch.stack(found, -1)
