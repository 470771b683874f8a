"""Apple M3 Ultra."""

from __future__ import annotations

from archc.schema import Hardware


class M3Ultra(Hardware, memory=512e9, bandwidth=819e9, fp32=28.6e12, bf16=28.6e12):
    """Apple M3 Ultra, its 80-core GPU alone, with 512 GB of memory that all of the machine shares.

    Source: https://techpowerup.com/news-tags/Mac%20Studio (memory, as Apple announced it). Apple states no rates of
    products: twice the 14.32 TFLOP/s, in 16 bits as in 32, that
    https://hmc-tech.com/gpu/apple-32-core-m4-max-vs-apple-40-core-m3-max has of the M3 Max, two of which it is
    (https://mjtsai.com/blog/2025/03/05/apple-m3-ultra/). No source: launch, and anything measured.
    """
