"""Rows of tables that are read by a thread while the layers before them run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .step import StepBase


class Asked(Exception):
    """No error: how a module that is asked for the ids it would look up stops once it has them."""

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        self.ids = ids


class Reading:
    """Rows ids [*] of a table, on their way: right as long as the table's `state` is what it was."""

    def __init__(self, read: Callable[[Tensor], Tensor], ids: Tensor, state: object) -> None:
        self.ids, self.state, self._read = ids, state, read
        self._rows: Tensor | None = None
        self._error: BaseException | None = None
        self._done, self._taken = Event(), Lock()

    def of(self, ids: Tensor, state: object) -> bool:
        """Whether these are the rows that a lookup wants."""
        return self.state == state and self.ids.shape == ids.shape and torch.equal(self.ids, ids)

    def take(self) -> bool:
        """Whether the caller is the first who wants the rows: others, of other threads, read their own."""
        return self._taken.acquire(blocking=False)

    def run(self) -> None:
        """Reads; an error waits for whoever wants the rows."""
        try:
            rows = self._read(self.ids)
            self._rows = rows.pin_memory() if torch.cuda.is_available() and not rows.is_cuda else rows
        except BaseException as error:  # noqa: BLE001 - it is raised where the rows are wanted
            self._error = error
        self._done.set()

    def result(self) -> Tensor:
        """The rows, once they are there. Raises what reading them raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._rows is not None
        return self._rows


def start(readings: Sequence[Reading]) -> None:
    """Reads one after the other, the first layer's first, in a thread that ends with the last."""
    if readings:
        Thread(target=_all, args=(readings,), name="rows ahead").start()


def _all(readings: Sequence[Reading]) -> None:
    for reading in readings:
        reading.run()


def still(step: StepBase) -> Any:
    """The step, for a look at what its layers would read: what is written to its cache is lost."""
    seen = copy(step)
    seen.cache = None if step.cache is None else _StillCache(step.cache.layers)  # type: ignore[assignment]
    return seen


class _StillCache:
    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = [_StillLayer(layer) for layer in layers]


class _StillLayer:
    """The stores of a layer, each a copy from the moment it is asked for: those of token ids are small."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        store = getattr(self._layer, name)
        return replace(store, data=store.data.clone())
