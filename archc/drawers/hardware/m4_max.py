"""Apple M4 Max."""

from __future__ import annotations

from archc.schema import Hardware


class M4Max(Hardware, memory=128e9, bandwidth=546e9, fp32=17.2e12, bf16=17.2e12):
    """Apple M4 Max, its 40-core GPU alone, with 128 GB of memory that all of the machine shares.

    Source: https://www.apple.com/mac-studio/specs/ (memory). Apple states no rates of products: 5120 lanes, two FLOPs
    each, at the 1678 MHz of https://hmc-tech.com (M4 Max), 16-bit numbers at the rate of float32. No source: launch,
    and anything measured.
    """
