"""Apple M4 Max."""

from __future__ import annotations

from archc.schema import Hardware


class M4Max(Hardware, memory=128e9, bandwidth=546e9, fp32=17.2e12, bf16=17.2e12):
    """Apple M4 Max, its 40-core GPU alone, with 128 GB of memory that all of the machine shares.

    Source: https://www.macrumors.com/2024/10/30/apple-announces-m4-max-chip/ (memory). Apple states no rates of
    products: 40 / 32 of the 13.74 TFLOP/s, in 16 bits as in 32, that
    https://hmc-tech.com/gpu/apple-32-core-m4-max-vs-apple-40-core-m3-max has of the M4 Max with 32 cores. No source:
    launch, and anything measured.
    """
