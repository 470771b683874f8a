"""Between the caller's columns and the model's rows: padding goes to the end of each row, and results come back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which of the caller's columns [B, C] are tokens, and where the model sees them: first in their row, in order."""

    count: Tensor  # [B] tokens
    known: list[int] | None  # the same on the host, where something needed it
    new: int  # S, the columns the model sees
    order: Tensor | None = None  # [B, S] the caller's column of each of the model's; None: the columns are the same
    back: Tensor | None = None  # [B, C] the model's column of each of the caller's
    segments: Tensor | None = None  # [B, S] ids of packed sequences, 0 at padding

    @classmethod
    def whole(cls, ids: Tensor) -> Rows:
        """Rows without padding."""
        batch, new = ids.shape
        return cls(count=torch.full((batch,), new, device=ids.device), known=[new] * batch, new=new)

    @classmethod
    def masked(cls, mask: Tensor, segments: Tensor | None, *, trim: bool) -> Rows:
        """Rows of the tokens where mask [B, C] is True; `trim` asks the device how many columns are needed."""
        count = mask.sum(1)
        known, new = None, mask.shape[1]
        if trim:
            known = [int(n) for n in count.tolist()]
            new = max(1, *known)
            if min(known) == mask.shape[1]:
                return cls(count=count, known=known, new=new)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
        back = order.argsort(dim=1).clamp(max=new - 1)
        order = order[:, :new]
        segments = None if segments is None else (segments * mask).gather(1, order)
        return cls(count=count, known=known, new=new, order=order, back=back, segments=segments)

    @property
    def valid(self) -> Tensor:
        """Which of the model's columns are tokens: [B, S]."""
        return torch.arange(self.new, device=self.count.device) < self.count[:, None]

    def pack(self, x: Tensor, padding: int = 0) -> Tensor:
        """The caller's columns [B, C] as the model sees them, with `padding` where there is no token: [B, S]."""
        if self.order is None:
            return x
        return x.gather(1, self.order).masked_fill(~self.valid, padding)

    def unpack(self, x: Tensor) -> Tensor:
        """The model's columns [B, S, ...] in the caller's places, arbitrary values at padding: [B, C, ...]."""
        if self.back is None:
            return x
        return x[torch.arange(x.shape[0], device=x.device)[:, None], self.back]

    def starts(self) -> Tensor | None:
        """The column in which each token's packed sequence starts: [B, S]."""
        if self.segments is None:
            return None
        changes = self.segments[:, 1:] != self.segments[:, :-1]
        column = torch.arange(1, self.new, device=changes.device)
        starts = torch.cat([column.new_zeros(changes.shape[0], 1), (column * changes)], 1)
        return starts.cummax(1).values

    def targets(self, labels: Tensor) -> Tensor:
        """What each of the caller's columns has to predict, -100 where nothing: [B, C].

        That is the label of the next token of the same sequence; `labels` [B, C] are in the caller's columns.
        """
        labels = self.pack(labels.long(), padding=-100)
        following = labels[:, 1:]
        if self.segments is not None:
            following = following.masked_fill(self.segments[:, 1:] != self.segments[:, :-1], -100)
        return self.unpack(torch.cat([following, torch.full_like(labels[:, :1], -100)], 1))
