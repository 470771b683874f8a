"""The k largest, with a rule for ties."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_lowest(x: Tensor, k: int) -> Tensor:
    """Indices of the k largest of the last dim, largest first, equal values in the order of their indices: [..., k]
    int64.

    ``torch.topk`` leaves the order of ties to the device and the length of the row, so that a cached forward could
    choose other experts or entries than a full one. Needs k <= x.shape[-1].
    """
    if k == 0:
        return x.new_zeros((*x.shape[:-1], 0), dtype=torch.int64)
    x = x.detach()
    last = x.topk(k, -1).values[..., -1:]  # the value is well defined where its index is not
    above = x > last
    tied = x == last
    room = k - above.sum(-1, keepdim=True)
    taken = above | (tied & (tied.cumsum(-1) <= room))
    place = torch.where(taken, taken.cumsum(-1) - 1, k)
    ids = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    ascending = ids.new_zeros((*x.shape[:-1], k + 1)).scatter(-1, place, ids)[..., :k]
    order = x.gather(-1, ascending).sort(dim=-1, descending=True, stable=True).indices
    return ascending.gather(-1, order)
