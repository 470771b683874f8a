"""One entry out of a group of tokens: a softmax over the group, channel by channel (DeepSeek-V4, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def group_pool(kv: Tensor, score: Tensor, exists: Tensor, bias: Tensor, *, overlap: bool = False) -> Tensor:
    """The mean of each group's values, weighted by softmax(score + bias) over its tokens: [B, G, C].

    kv and score [B, G, n, C'], exists [B, G, n], bias [every, C'] by place in the group. Without ``overlap`` C' = C
    and n = every. With it C' = 2 C and n = 2 * every: the group before speaks with its first C channels, this group
    with its last C. A group of which nothing exists gives zero. Computed in at least float32.
    """
    if kv.numel() == 0 and not torch.is_grad_enabled():  # as when most single tokens are decoded
        return kv.new_empty(*kv.shape[:2], bias.shape[-1] // (1 + overlap))
    narrow, wide = kv.dtype, torch.promote_types(kv.dtype, torch.float32)
    kv, score, bias = kv.to(wide), score.to(wide), bias.to(wide)
    if overlap:
        every, channels = bias.shape[0], kv.shape[-1] // 2
        before, here = score.split(every, 2)
        score = torch.cat([(before + bias)[..., :channels], (here + bias)[..., channels:]], 2)
        before, here = kv.split(every, 2)
        kv = torch.cat([before[..., :channels], here[..., channels:]], 2)
    else:
        score = score + bias
    missing = ~exists[..., None]
    # The smallest number, not -inf: a group of which nothing exists would have no gradient but NaN.
    weight = score.masked_fill(missing, torch.finfo(wide).min).softmax(2).masked_fill(missing, 0)
    return (kv.masked_fill(missing, 0) * weight).sum(2).to(narrow)
