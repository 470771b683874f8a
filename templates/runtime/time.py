"""Where the new tokens of a call stand in time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Time:
    """The new tokens of each row, numbered by slot: 0 for the first token a row ever had.

    Row b has its new tokens in columns 0 .. count[b] - 1, contiguous and followed only by padding; column j stands at
    slot first[b] + j. Padding comes after everything valid, so causality alone hides it.
    """

    first: Tensor  # [B] slot of the first new token
    count: Tensor  # [B] new tokens
    positions: Tensor  # [B, S] what rotary embeddings see; slots, unless rows are packed or the caller gave others
    starts: Tensor | None = None  # [B, S] slot of the first token of each token's sequence; None: one sequence per row
    past: int  # the largest first[b]
    new: int  # S
    cached: bool  # there is a cache, which may hold tokens before the new ones
    aligned: bool  # every first[b] is `past`
    full: bool  # every count[b] is `new`

    @property
    def end(self) -> int:
        """One more than the largest slot of this call."""
        return self.past + self.new

    @property
    def last(self) -> Tensor:
        """The slot of the last valid token of each row, first - 1 where a row has no new one: [B]."""
        return self.first + self.count - 1

    def closed(self, every: int) -> Tensor:
        """Ids of the groups of `every` tokens that this call completes, in order, then -1: [B, G].

        Group i is made of the slots i * every .. (i + 1) * every - 1. G is S // every without a cache, and S / every
        rounded up with one.
        """
        groups = -(-self.new // every) if self.cached else self.new // every
        ids = (self.first // every)[:, None] + torch.arange(groups, device=self.first.device)
        return ids.masked_fill((ids + 1) * every > (self.first + self.count)[:, None], -1)

    def take(self, recent: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of `recent` [B, keep + S, ...] (see `recall`) at slots `wanted` [B, ...], and whether they exist.

        Rows that do not exist hold arbitrary values.
        """
        kept = recent.shape[1] - self.new
        first, last = (slot.view(-1, *[1] * (wanted.dim() - 1)) for slot in (self.first, self.last))
        row = wanted - first + kept
        exists = (wanted >= 0) & (row >= 0) & (wanted <= last)
        batch = torch.arange(recent.shape[0], device=recent.device).view(first.shape)
        return recent[batch, row.clamp(0, recent.shape[1] - 1)], exists
