"""Index queries and keys in few bits: a Hadamard transform, then FP8 or FP4, one row at a time.

Transcribed from the released inference code of DeepSeek-V3.2 (FP8 in groups of 128, scales rounded up to powers of two)
and of DeepSeek-V4 (FP4 in groups of 32); the formats are those of OCP Microscaling Formats 1.0.
"""

from __future__ import annotations

import numpy as np

from tests.oracles.packed import FP4, FP8
from tests.oracles.rows import Array

KINDS = {"fp8": (128, np.array(FP8), 1e-4), "fp4": (32, np.array(FP4), 6 * 2.0**-126)}
"""Channels of a group, the numbers of the format by code, what the largest of a group counts as at least."""


def transformed(x: Array) -> Array:
    """x times Sylvester's matrix, of which an element is -1 to the number of bits that its row and column share, times
    n^-1/2.
    """
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(len(x))] for i in range(len(x))]
    return np.array([float(np.sum(np.array(row) * x)) for row in signs]) * len(x) ** -0.5


def quantised(x: Array, to: str) -> Array:
    """x, as float32 has it, in the numbers of a format: the nearest, of two the one with the even code."""
    size, values, least = KINDS[to]
    x = x.astype(np.float32).astype(np.float64)
    return np.concatenate([_group(x[i : i + size], values, least) for i in range(0, len(x), size)])


def _group(x: Array, values: Array, least: float) -> Array:
    top, scale = max(float(np.max(np.abs(x))), float(np.float32(least))), 2.0**-200
    while values[-1] * scale < top:
        scale *= 2
    out = np.zeros(len(x))
    for i, number in enumerate(x):
        gaps = np.abs(values - abs(number) / scale)
        codes = np.flatnonzero(gaps == gaps.min())
        out[i] = np.copysign(values[min(codes, key=lambda code: code % 2)] * scale, number)
    return out


def rounded(x: Array, to: str) -> Array:
    """A query or key as it is scored; as it is where ``to`` is empty."""
    return quantised(transformed(x), to) if to else x
