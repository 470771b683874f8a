"""Each token's predecessor at a fixed distance."""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import slots
from .state import Clock


def shift(recent: Tensor, time: Clock, back: int, fill: float = 0) -> Tensor:
    """What stands ``back`` tokens before each new one, ``fill`` where its sequence begins later: [B, S, ...].

    ``recent`` [B, R, ...] is what `recall` gave; it must reach back far enough. A distance of 0 gives the new tokens.
    """
    kept, new = recent.shape[1] - time.new, time.new
    low = max(kept - back, 0)
    held = recent[:, low : max(kept + new - back, low)]
    missing = new - held.shape[1]
    begin = 0 if time.starts is None else time.starts
    inside = (slots(time) - back >= begin)[:, missing:].view(*held.shape[:2], *[1] * (held.dim() - 2))
    held = torch.where(inside, held, fill)
    before = torch.full((held.shape[0], missing, *held.shape[2:]), fill, dtype=held.dtype, device=held.device)
    return torch.cat([before, held], 1)
