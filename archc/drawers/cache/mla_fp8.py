"""The cache of DeepSeek-V3.2."""

from __future__ import annotations

from archc.schema import Cache


class MlaFp8(Cache):
    """Stores the latents and index keys of latent attention (`mla`, `dsa`) in FP8, all else as bfloat16.

    So FlashMLA reads them (https://github.com/deepseek-ai/FlashMLA): 656 bytes a token, and 132 its index key. A module
    whose dtype is wider than bfloat16 stores that instead, unless the caller asks for this layout.
    """

    element = 2
    packs = (
        "latents and index keys are FP8 (E4M3) in tiles of 128 with a power of two as float32 scale, the rotated"
        " channels beside a latent bfloat16. All else is bfloat16."
    )
