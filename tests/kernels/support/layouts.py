"""Hypothesis strategies for the tensors that ops meet: ragged counts, odd widths, strides of a larger tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "sliced", "strided", "transposed", "expanded")

dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**31)
widths = st.sampled_from((1, 2, 3, 8, 17, 32, 36, 64, 100, 128, 192, 320, 576))
counts = st.integers(0, 19)


def random(
    shape: Sequence[int], *, seed: int, dtype: torch.dtype, layout: str = "contiguous", scale: float = 1.0
) -> Tensor:
    """A normal random tensor of this shape and dtype, laid out in memory as named."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return (torch.randn(sizes, generator=generator) * scale).to(dtype)

    *rows, width = shape
    if layout == "sliced":
        return draw(*rows, width + 12)[..., 5 : 5 + width]
    if layout == "strided":
        return draw(*rows, 2 * width)[..., ::2]
    if layout == "transposed" and len(shape) > 2:
        return draw(shape[1], shape[0], *shape[2:]).transpose(0, 1)
    if layout == "expanded":
        return draw(*rows, 1).expand(*shape)
    return draw(*shape)
