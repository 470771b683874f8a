"""Rotary positions with YaRN frequencies, interleaved pairs, on the last channels of a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tests.oracles.rows import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """``dim`` channels turn; ``factor`` 1 is plain rope; ``single`` takes angles, cosines and sines in float32, as
    packages do."""

    dim: int
    theta: float = 10000.0
    factor: float = 1.0
    original: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    single: bool = False

    def frequency(self, i: int) -> float:
        """Radians per token of pair i."""
        plain = self.theta ** (-2.0 * i / self.dim)
        if self.factor == 1.0:
            return plain
        low = max(math.floor(self._correction(self.beta_fast)), 0)
        high = min(math.ceil(self._correction(self.beta_slow)), self.dim - 1)
        width = high - low if high != low else 0.001
        ramp = min(max((i - low) / width, 0.0), 1.0)
        return plain / self.factor * ramp + plain * (1.0 - ramp)

    def _correction(self, turns: float) -> float:
        return self.dim * math.log(self.original / (turns * 2.0 * math.pi)) / (2.0 * math.log(self.theta))

    def turn(self, x: Array, position: int, direction: int = 1) -> Array:
        """x [D] with pair i of its last ``dim`` channels turned by ``direction`` * position * frequency(i)."""
        y = x.copy()
        start = len(x) - self.dim
        for i in range(self.dim // 2):
            angle = position * self.frequency(i)
            cos, sin = math.cos(angle), math.sin(angle)
            if self.single:
                angle = np.float32(position) * np.float32(self.frequency(i))
                cos, sin = float(np.cos(angle, dtype=np.float32)), float(np.sin(angle, dtype=np.float32))
            a, b = x[start + 2 * i], x[start + 2 * i + 1]
            y[start + 2 * i] = a * cos - direction * b * sin
            y[start + 2 * i + 1] = b * cos + direction * a * sin
        return y
