"""Apple M3 Ultra."""

from __future__ import annotations

from archc.schema import Hardware


class M3Ultra(Hardware, memory=512e9, bandwidth=819e9, fp32=28.6e12, bf16=28.6e12):
    """Apple M3 Ultra, its 80-core GPU alone, with 512 GB of memory that all of the machine shares.

    Source: https://www.apple.com/mac-studio/specs/ (memory). Apple states no rates of products: 10240 lanes, two
    FLOPs each, at the 1398 MHz of https://hmc-tech.com (M3 Max), 16-bit numbers at the rate of float32. No source:
    launch, and anything measured.
    """
