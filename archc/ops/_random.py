"""Whole numbers of numpy's default generator: the recipes of public models are written in them.

Written out, because importing numpy takes longer than planning a model, and because numpy does not promise the same
numbers for ever (NEP 19).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

_32, _64, _128 = (1 << 32) - 1, (1 << 64) - 1, (1 << 128) - 1


def integers(seed: int, below: int, count: int) -> list[int]:
    """``numpy.random.default_rng(seed).integers(0, below, size=count)``, for ``below`` above 2^32 and under 2^63."""
    if not 1 << 32 < below < 1 << 63:
        raise ValueError(f"below is {below}: numpy draws numbers of so many bits in another way")
    return list(islice(_bounded(_pcg64(*_spread(seed)), below), count))


def _bounded(words: Iterator[int], below: int) -> Iterator[int]:
    """Numbers under ``below`` from words of 64 bits, by multiplication (Lemire 2019, arXiv:1805.10941)."""
    uneven = (1 << 64) % below
    for word in words:
        product = word * below
        if product & _64 >= uneven:
            yield product >> 64


def _pcg64(seed: int, stream: int) -> Iterator[int]:
    """Words of 64 bits: PCG XSL RR 128/64 (O'Neill 2014, https://www.pcg-random.org)."""
    factor, step = 0x2360ED051FC65DA44385DF649FCCF645, (stream << 1 | 1) & _128
    state = ((step + seed) * factor + step) & _128
    while True:
        state = (state * factor + step) & _128
        word, turn = (state >> 64 ^ state) & _64, state >> 122
        yield (word >> turn | word << (64 - turn)) & _64


def _spread(seed: int) -> tuple[int, int]:
    """Two numbers of 128 bits that all bits of a seed go into: `numpy.random.SeedSequence` (NEP 19)."""
    words = [seed >> shift & _32 for shift in range(0, max(1, seed.bit_length()), 32)]
    hashed = _Hash(0x43B0D7E5, 0x931E8875)
    pool = [hashed(words[i] if i < len(words) else 0) for i in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = _mixed(pool[target], hashed(pool[source]))
    for word in words[4:]:
        pool = [_mixed(old, hashed(word)) for old in pool]
    hashed = _Hash(0x8B51F9DD, 0x58F38DED)
    state = [hashed(pool[i % 4]) for i in range(8)]
    # pairs of words are numbers of 64 bits, the lower first; of these two are one number, the upper first
    first, second, third, fourth = (state[i] | state[i + 1] << 32 for i in range(0, 8, 2))
    return first << 64 | second, third << 64 | fourth


class _Hash:
    """A hash of words of 32 bits whose constant moves on with every word."""

    def __init__(self, constant: int, factor: int) -> None:
        self.constant, self.factor = constant, factor

    def __call__(self, word: int) -> int:
        word ^= self.constant
        self.constant = self.constant * self.factor & _32
        word = word * self.constant & _32
        return word ^ word >> 16


def _mixed(x: int, y: int) -> int:
    word = (0xCA01F9DD * x - 0x4973F715 * y) & _32
    return word ^ word >> 16
