"""What a model with multi-token prediction can do besides: learn to predict further tokens, and draft with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from .cache import Cache
from .generate import Generation
from .model import LanguageModel, cross_entropy, pair, time_of
from .rows import Rows
from .speculate import speculate
from .step import StepBase


class MtpLanguageModel(LanguageModel):
    """The base of a generated model with modules that predict further tokens, made unless `mtp=False` (then `mtp` is
    empty). Module k reads the token k + 1 ahead of each column and predicts the one after it.
    """

    mtp: nn.ModuleList
    mtp_weight: ClassVar[float]
    """Factor on the mean loss of the modules."""

    def ahead(self, depth: int, carried: Tensor, step: Any, /) -> Tensor | tuple[Tensor, Tensor]:
        """What the head gets of module `depth` [B, S, dim]; beside it what the next module reads, where that differs.

        `carried` [B, S, ...] is what the module before gave to read, or the main model. The step is that of the same
        columns, but `step.tokens` [B, S] are those depth + 1 ahead.
        """
        raise NotImplementedError

    def look_ahead(self, rows: Rows, step: StepBase, carried: Tensor, labels: Tensor) -> None:
        """Adds the mean cross entropy of the modules to the losses; not with a cache, which holds nothing of them."""
        if not self.mtp or step.cache is not None:
            return
        columns = Columns(
            carried=carried,
            tokens=step.tokens,
            labels=rows.pack(labels.long(), padding=-100),
            positions=step.time.positions,
            segments=rows.segments,
            count=rows.count,
        )
        losses = []
        for depth in range(len(self.mtp)):
            columns = columns.further()
            x, carried = pair(self.ahead(depth, columns.carried, columns.step(self, step)))
            columns = replace(columns, carried=carried)
            losses.append(cross_entropy(self.head(x), columns.rows().targets(columns.labels)))
        step.add_loss("mtp", torch.mean, torch.stack(losses), weight=self.mtp_weight)

    def draft_cache(self, depth: int, batch: int, max_tokens: int, max_rewind: int) -> Cache:
        """An empty cache of module `depth`, for columns of the main model."""
        return self.cache_of([self.mtp[depth]], batch, max_tokens, max_rewind)

    def generator_of(self, drafts: int) -> Callable[..., tuple[Tensor, Generation]]:
        """How `generate` goes on: `drafts` tokens are drafted and verified at a time, or none."""
        if drafts and not self.mtp:
            raise ValueError("this model was made with mtp=False, so there is nothing to speculate with")
        return partial(speculate, drafts=drafts) if drafts else super().generator_of(drafts)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of the main model with the token so far ahead of each; those that have one come first in their row."""

    carried: Tensor  # [B, S, ...] what the module before gave to read: hidden vectors, or residual streams
    tokens: Tensor  # [B, S] the token ahead
    labels: Tensor  # [B, S] its label, -100 where there is no token
    positions: Tensor  # [B, S] of the columns themselves
    segments: Tensor | None  # [B, S] ids of packed sequences
    count: Tensor  # [B]

    def further(self) -> Self:
        """The columns whose sequence has one more token ahead, each with that one."""
        column = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        tokens, labels = self.tokens.roll(-1, 1), self.labels.roll(-1, 1)
        if self.segments is None:
            count = (self.count - 1).clamp(min=0)
            labels = labels.masked_fill(column >= count[:, None], -100)
            return replace(self, tokens=tokens, labels=labels, count=count)
        keep = (column + 1 < self.count[:, None]) & (self.segments == self.segments.roll(-1, 1))
        order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
        count = keep.sum(1)
        return replace(
            self,
            carried=self.carried[torch.arange(len(order), device=order.device)[:, None], order],
            tokens=tokens.gather(1, order),
            labels=labels.gather(1, order).masked_fill(column >= count[:, None], -100),
            positions=self.positions.expand_as(order).gather(1, order),
            segments=self.segments.gather(1, order),
            count=count,
        )

    def rows(self) -> Rows:
        """The rows that a module sees."""
        return Rows(count=self.count, known=None, new=self.tokens.shape[1], segments=self.segments)

    def step(self, model: LanguageModel, main: StepBase) -> StepBase:
        """The step of a module, whose effects join those of the main model."""
        step = model.step(self.tokens, time_of(self.rows(), self.positions, None), None)
        step.effects, step.recompute, step.streams = main.effects, main.recompute, main.streams
        return step
