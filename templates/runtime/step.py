"""What every layer may read and leave during one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .balance import Load, count_choices
from .cache import NO_STATE, Cache, NoState
from .effects import Effects, States
from .recompute import Recompute, Region, regions
from .time import Time


@dataclass(kw_only=True)
class StepBase:
    """The part of a step that all models share; a model adds what it computes once per forward."""

    tokens: Tensor  # [B, S]
    time: Time
    cache: Cache | None
    hidden_states: States | None = None  # filled by `record` where the caller asked for them
    effects: Effects | None = None  # where layers leave losses and loads, if anybody wants them
    recompute: Recompute = "none"
    streams: int = 1  # that layers pass on
    training: bool = False  # decisions are soft, so that they have a gradient
    skipping: bool = False  # layers may leave out tokens that are sure
    sure: tuple[Tensor, bool] | None = None  # the last confidence that `skips` was asked about, and the answer

    def state(self, layer: int) -> SimpleNamespace | NoState:
        """The stores of a layer, each None where there is no cache."""
        return NO_STATE if self.cache is None else self.cache.layers[layer]

    def regions(self, layers: Iterable[nn.Module]) -> Iterable[Region]:
        """The layers; or, where a backward pass runs some of their work again, what to call instead of them."""
        return layers if self.recompute == "none" else regions(list(layers), self.recompute, self.streams)

    def region(self, layer: nn.Module) -> Region:
        """The same of a layer that stands alone."""
        return layer if self.recompute == "none" else regions([layer], self.recompute, self.streams)[0]

    def record(self, x: Tensor) -> None:
        """Keeps the input of a layer for the caller who asked for hidden states."""
        if self.hidden_states is not None:
            self.hidden_states.found.append(x)

    def wants(self, loss: str) -> bool:
        """Whether a loss is evaluated: all where there are labels, that of indexers only without a cache and unless
        its stage is off.
        """
        return self.effects is not None and self.effects.wants(loss)

    def add_loss(
        self,
        name: str,
        term: Callable[..., Tensor],
        *operands: object,
        weight: float,
        finish: Callable[[Tensor], Tensor] | None = None,
        **settings: Any,
    ) -> None:
        """Adds `term(*operands, **settings)` to the loss `name`, which counts `weight` times in the total.

        It is evaluated only if it is wanted. With `finish`, the loss is what that makes of the sum over all layers.
        """
        if self.effects is not None and self.effects.wants(name):
            self.effects.add(name, term(*operands, **settings), weight, finish)

    def pick(self, choose: Callable[..., Tensor], *operands: object, **settings: Any) -> Any:
        """What `choose(*operands, **settings)` picks; None, for all there is, while indexers learn in their dense
        stage.
        """
        if self.effects is not None and self.effects.index_stage == "dense" and self.effects.learning:
            return None
        return choose(*operands, **settings)

    def decide(self, confidence: Tensor, *, threshold: float) -> Tensor:
        """1 where the confidence [B, S] is above the threshold, else 0; in training the confidence itself."""
        return confidence if self.training else (confidence > threshold).to(confidence.dtype)

    def skips(self, confidence: Tensor) -> bool:
        """Whether layers may leave out all tokens of this call, as the confidence [B, S] in each is 1.

        Never while layers are compiled or have no numbers: that decides without looking at any.
        """
        if not self.skipping or torch.compiler.is_compiling() or confidence.is_meta:
            return False
        if self.sure is None or self.sure[0] is not confidence:  # once for all layers: it waits for the device
            self.sure = confidence, bool(((confidence == 1) | ~self.time.valid).all())
        return self.sure[1]

    def count_loads(self, bias: Tensor, ids: Tensor, rate: float) -> None:
        """Counts the tokens that chose each expert, ids [B, S, K], for the update of `bias` [E] after the step."""
        if self.effects is not None and self.effects.counting:
            self.effects.loads.append(Load(bias=bias, count=count_choices(ids, self.time.valid, len(bias)), rate=rate))
