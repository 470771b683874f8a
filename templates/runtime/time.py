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
    def valid(self) -> Tensor:
        """Which columns are tokens, not padding: [B, S]."""
        return torch.arange(self.new, device=self.count.device) < self.count[:, None]

    @property
    def last(self) -> Tensor:
        """The slot of the last valid token of each row, first - 1 where a row has no new one: [B]."""
        return self.first + self.count - 1
