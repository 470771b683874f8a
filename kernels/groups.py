"""Groups of consecutive tokens, of which a compressor makes one entry each (DeepSeek-V4, arXiv:2606.19348, section
2.3).

Group i of a sequence is made of its tokens i * every .. (i + 1) * every - 1. Entries of a row are numbered in the
order in which their groups end; a sequence's unfinished group has none. In packed rows a group never spans two
sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .state import Clock


def slots(time: Clock) -> Tensor:
    """The slot of each new token: [B, S]."""
    return time.first[:, None] + torch.arange(time.new, device=time.first.device)


def completed(time: Clock, every: int) -> int:
    """How many groups of a row this call may complete; so many where rows are aligned and full."""
    if not time.cached:
        return time.new // every
    if time.aligned and time.full:
        return (time.past + time.new) // every - time.past // every
    return -(-time.new // every)  # rows may hold parts of groups


def opened(time: Clock, every: int) -> Tensor:
    """Slots of the first token of each group that this call completes, in order, then -1: [B, G]."""
    count = completed(time, every)
    if time.cached and not count:  # as when most single tokens are decoded
        return time.first.new_empty(len(time.first), 0)
    if time.starts is None:
        ids = (time.first // every)[:, None] + torch.arange(count, device=time.first.device)
        return (ids * every).masked_fill((ids + 1) * every > (time.first + time.count)[:, None], -1)
    here = slots(time)
    ends = _ends(time, every)
    place = torch.where(ends, ends.cumsum(1) - 1, count)
    return here.new_full((here.shape[0], count + 1), -1).scatter(1, place, here - every + 1)[:, :count]


def group_positions(time: Clock, *, every: int, back: int = 0) -> Tensor:
    """Where the first token of each group that this call completes stands in its sequence, 0 where there is none:
    [B, G]. Or the token ``back`` tokens before it, where a block begins that reaches further.

    Floating-point where the positions of the tokens are.
    """
    first = opened(time, every)
    if time.cached and not first.numel():
        return first.to(time.positions.dtype)
    first = first.clamp(min=0)
    if time.starts is not None:
        first = first - time.starts.gather(1, first)
    if back:
        first = first - back
    return first.to(time.positions.dtype)


def visible(time: Clock, every: int) -> tuple[Tensor | None, Tensor]:
    """The entries low <= id < high that each new token sees, those of its sequence that end with it or before: [B,
    S] each.

    ``low`` is None where rows are not packed: all entries from the first.
    """
    here = slots(time)
    if time.starts is None:
        return None, (here + 1) // every
    high = _ends(time, every).cumsum(1)
    return high - (here - time.starts + 1) // every, high


def _ends(time: Clock, every: int) -> Tensor:
    """Whether each new token is the last of a group, in packed rows: [B, S]."""
    age = slots(time) - (0 if time.starts is None else time.starts) + 1
    valid = torch.arange(time.new, device=age.device) < time.count[:, None]
    return (age % every == 0) & valid


def groups(recent: Tensor, time: Clock, *, every: int, overlap: bool = False) -> tuple[Tensor, Tensor]:
    """The tokens of each group that this call completes [B, G, n, ...], and which of them exist [B, G, n].

    ``recent`` [B, R, ...] is what `recall` gave: kept tokens, then the new ones; it must reach back over a group
    begun earlier, and over the group before where they ``overlap``: then n is 2 * every, the group before comes
    first, and does not exist for the first group of a sequence. Tokens that do not exist hold arbitrary values.
    """
    if time.cached and not completed(time, every):  # as when most single tokens are decoded
        n = every * (1 + overlap)
        batch, _, *channels = recent.shape
        return recent.new_empty(batch, 0, n, *channels), recent.new_empty((batch, 0, n), dtype=torch.bool)
    first = opened(time, every)
    if not time.cached and time.starts is None:
        tokens = recent[:, : first.shape[1] * every].unflatten(1, (first.shape[1], every))
        exists = (first >= 0)[..., None].expand(-1, -1, every)
        if not overlap:
            return tokens, exists
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
        return torch.cat([before, tokens], 2), torch.cat([exists & (first > 0)[..., None], exists], 2)
    wanted = first[..., None] + torch.arange(-every if overlap else 0, every, device=first.device)
    begin = 0 if time.starts is None else time.starts.gather(1, first.clamp(min=0))[..., None]
    row = wanted - time.first[:, None, None] + recent.shape[1] - time.new
    batch = torch.arange(recent.shape[0], device=first.device)[:, None, None]
    return recent[batch, row.clamp(0, recent.shape[1] - 1)], (wanted >= begin) & (first >= 0)[..., None]
