"""What layers leave behind during a forward pass beside their results: terms of the loss, and loads of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .balance import Load

Stage = Literal["off", "dense", "sparse"]
"""How losses of indexers are computed: not at all; over all entries that a token sees, and attention runs over them
too; over those that were picked."""


@dataclass(kw_only=True)
class Term:
    """A part of the loss: what layers added up, and what is made of the sum."""

    name: str
    sum: Tensor
    weight: float
    finish: Callable[[Tensor], Tensor] | None


class States:
    """Hidden states that layers left.

    No list, as `Effects` is no dataclass: FSDP2 copies both where they hold tensors with a gradient, and what later
    layers leave in a copy is lost.
    """

    def __init__(self) -> None:
        self.found: list[Tensor] = []


class Effects:
    """What is wanted of the layers, and what they left."""

    def __init__(self, *, learning: bool, counting: bool, graded: bool, index_stage: Stage = "off") -> None:
        self.learning = learning  # there are labels: losses are evaluated
        self.counting = counting  # loads are counted
        self.graded = graded  # the forward as a whole has a gradient
        self.index_stage: Stage = index_stage
        self.terms: list[Term] = []
        self.loads: list[Load] = []
        self.read = False  # the losses are: what is added now runs again, and would only hold memory

    def wants(self, name: str) -> bool:
        """Whether the loss of that name is evaluated."""
        return self.learning and (name != "index" or self.index_stage != "off")

    def add(self, name: str, value: Tensor, weight: float, finish: Callable[[Tensor], Tensor] | None) -> None:
        """Adds a value to the loss of that name, weight and finish. RuntimeError where its gradient would be lost."""
        if self.graded and not torch.is_grad_enabled():
            raise RuntimeError(
                f"the loss {name!r} of a layer under a reentrant checkpoint would have no gradient:"
                " checkpoint with use_reentrant=False"
            )
        if self.read:
            return
        for held in self.terms:
            if (held.name, held.weight) == (name, weight) and held.finish is finish and held.sum.shape == value.shape:
                held.sum = held.sum + value
                return
        self.terms.append(Term(name=name, sum=value, weight=weight, finish=finish))

    def losses(self) -> Iterator[tuple[str, Tensor, float]]:
        """Name, value and weight of every loss; a name comes once for each of its weights. None are added later.

        They are given away: layers that run again in a backward pass hold what holds this, and a loss that nobody takes
        a gradient of would hold those layers.
        """
        self.read = True
        terms, self.terms = self.terms, []
        for term in terms:
            yield term.name, term.sum if term.finish is None else term.finish(term.sum), term.weight

    def take_loads(self) -> list[Load]:
        """The loads so far; none are counted from now on: what runs again in a backward pass was counted before."""
        self.counting = False
        return self.loads
