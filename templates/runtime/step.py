"""What every layer may read and leave during one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from torch import Tensor

from .cache import NO_STATE, Cache, NoState
from .time import Time


@dataclass(kw_only=True)
class StepBase:
    """The part of a step that all models share; a model adds what it computes once per forward."""

    tokens: Tensor  # [B, S]
    time: Time
    cache: Cache | None
    hidden_states: list[Tensor] | None = None  # filled by `record` where the caller asked for them
    losses: dict[str, tuple[Tensor, float]] = field(default_factory=dict)  # value and weight by name

    def state(self, layer: int) -> SimpleNamespace | NoState:
        """The stores of a layer, each None where there is no cache."""
        return NO_STATE if self.cache is None else self.cache.layers[layer]

    def record(self, x: Tensor) -> None:
        """Keeps the input of a layer for the caller who asked for hidden states."""
        if self.hidden_states is not None:
            self.hidden_states.append(x)

    def add_loss(self, name: str, value: Tensor, weight: float) -> None:
        """Adds `value` to the loss `name`, which counts `weight` times in the total."""
        before = self.losses.get(name)
        self.losses[name] = (value if before is None else before[0] + value, weight)
