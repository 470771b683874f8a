"""The cache of DeepSeek-V4."""

from __future__ import annotations

from archc.schema import Cache


class V4Fp8(Cache):
    """Stores the keys and entries of `windowed` in FP8 and its index keys in FP4, all else as bfloat16.

    So DeepSeek-V4 does (arXiv:2606.19348): 584 bytes a key, 68 an index key. A module whose dtype is wider than
    bfloat16 stores that instead, unless the caller asks for this layout.
    """

    element = 2
    packs = (
        "keys and compressed entries are FP8 (E4M3) in groups of 64 with a power of two as scale, their channels with"
        " positions bfloat16, in rows of a multiple of 8 bytes; index keys are FP4 (E2M1) in groups of 32. All else is"
        " bfloat16: tokens of groups that are not complete stay as the projections of a bfloat16 model give them, so"
        " that an entry is rounded once."
    )
