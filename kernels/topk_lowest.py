"""The k largest, with a rule for ties."""

from __future__ import annotations

import torch
from torch import Tensor

from . import on_cpu

SORTED_WHOLE = 512
"""Elements up to which sorting costs less than the steps that avoid it."""


def topk_lowest(x: Tensor, k: int) -> Tensor:
    """Indices of the k largest of the last dim, largest first, equal values in the order of their indices: [..., k]
    int64.

    ``torch.topk`` leaves the order of ties to the device and the length of the row, so that a cached forward could
    choose other experts or entries than a full one. Needs k <= x.shape[-1].
    """
    if (best := on_cpu.topk(x, k)) is not None:
        return best
    x = x.detach()
    if x.dtype == torch.float64 or x.numel() <= SORTED_WHOLE:
        return x.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    # No two keys are equal: the number's place in the order of float32 (its bits, those of negative ones flipped but
    # for the sign; adding zero makes -0 a 0), and below it the index.
    bits = (x.float() + 0.0).view(torch.int32)
    place = (bits ^ (bits >> 31 & 0x7FFFFFFF)).long() << 32
    return (place - torch.arange(x.shape[-1], device=x.device)).topk(k, -1).indices
