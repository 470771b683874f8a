"""One key for each block of entries: what a search in two stages looks at first (HISA, arXiv:2603.28458)."""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import completed, opened, visible
from .state import Clock, Packed


@torch.no_grad()
def block_means(keys: Tensor | Packed, time: Clock, *, block: int, every: int = 1) -> Tensor:
    """The mean of the keys of each block that this call completes, in order: [B, G, D].

    Block i of a sequence has its entries i * block .. (i + 1) * block - 1, of the keys [B, E, D], one per ``every``
    tokens; in packed rows no block spans two sequences. Blocks that a row does not have hold arbitrary values. Computed
    in at least float32, without a gradient.
    """
    span, (batch, entries, channels) = every * block, keys.shape
    count = completed(time, span)
    if not count or not entries:  # nothing completes, or rows are too short for what they might complete
        make = torch.zeros if count else torch.empty
        return make(batch, count, channels, dtype=keys.dtype, device=time.first.device)
    if not time.cached and time.starts is None and isinstance(keys, Tensor):
        found = keys[:, : count * block].unflatten(1, (count, block))
    else:
        first = opened(time, span).clamp(min=0)
        entry = first // every
        if time.starts is not None:
            last = first - time.first[:, None] + span - 1
            entry = visible(time, every)[1].gather(1, last.clamp(max=time.new - 1)) - block
        ids = (entry[..., None] + torch.arange(block, device=entry.device)).clamp(0, entries - 1)
        found = entries_at(keys, ids)
    wide = torch.promote_types(keys.dtype, torch.float32)
    return found.to(wide).mean(2).to(keys.dtype)


def entries_at(keys: Tensor | Packed, ids: Tensor) -> Tensor:
    """keys[b, ids[b, i, j]] of each row b, decoded where they are packed: [B, I, J, D]."""
    if isinstance(keys, Packed):
        return keys.at(ids.flatten(1)).decode().unflatten(1, ids.shape[1:])
    return keys[torch.arange(len(ids), device=ids.device)[:, None, None], ids]
