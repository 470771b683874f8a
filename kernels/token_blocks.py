"""Overlapping blocks of consecutive tokens, of which a compressor makes one entry each (Native Sparse Attention,
arXiv:2502.11089, section 3.3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .groups import completed, opened
from .state import Clock


def token_blocks(recent: Tensor, time: Clock, *, every: int, size: int) -> Tensor:
    """The last ``size`` tokens at the end of each group of ``every`` that this call completes, side by side: [B, G, H,
    size * D].

    ``recent`` [B, R, H, D] is what `recall` gave: kept tokens, then the new ones; it must reach back over size - 1
    tokens. ``size`` is a multiple of ``every``. A block that begins before its sequence, as those of the first size /
    every - 1 groups do, holds arbitrary numbers: no token may see it.
    """
    batch, rows, heads, channels = recent.shape
    if time.cached and not completed(time, every):  # as when most single tokens are decoded
        return recent.new_empty(batch, 0, heads, size * channels)
    whole = rows // every * every
    if not time.cached and not whole:
        return recent[:, :0].repeat(1, 1, 1, size)  # still of the graph
    if not time.cached and time.starts is None:
        padded = F.pad(recent[:, :whole], (0, 0, 0, 0, size - every, 0))
        return padded.unfold(1, size, every).transpose(-1, -2).flatten(-2)
    first = opened(time, every)[..., None] + torch.arange(every - size, every, device=recent.device)
    row = (first - time.first[:, None, None] + (rows - time.new)).clamp(0, rows - 1)
    here = torch.arange(batch, device=recent.device)[:, None, None]
    return recent[here, row].transpose(2, 3).flatten(-2)
