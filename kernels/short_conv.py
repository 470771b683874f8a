"""A short causal convolution over each channel alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .shift import shift
from .state import Clock


def short_conv(recent: Tensor, weight: Tensor, time: Clock, *, dilation: int = 1) -> Tensor:
    """y[t] = sum over taps i of weight[..., i] * x[t - (taps - 1 - i) * dilation]: [B, S, *C].

    ``recent`` [B, R, *C] are x from `recall`, the last S rows the new tokens; weight [*C, taps], the last tap for
    the token itself. Tokens before the start of a sequence count as zero. Computed in at least float32.
    """
    wide = torch.promote_types(recent.dtype, torch.float32)
    x, taps = recent.to(wide), weight.to(wide).unbind(-1)
    last = len(taps) - 1
    y = shift(x, time, 0) * taps[last]
    for i, tap in enumerate(taps[:last]):
        y = y + shift(x, time, (last - i) * dilation) * tap
    return y.to(recent.dtype)
