"""What autograd holds of a forward: measured by hooks on saved tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class _Held:
    """A saved tensor, alive as long as autograd needs it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Saved:
    """Tensors that autograd holds of what ran inside of `saving`."""

    def __init__(self) -> None:
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()

    def pack(self, tensor: Tensor) -> _Held:
        held = _Held(tensor)
        self._held.add(held)
        return held

    def storages(self, *without: Tensor) -> dict[int, int]:
        """Bytes of every distinct storage by its address, those of some tensors left out."""
        left_out = {t.untyped_storage().data_ptr() for t in without}
        found = {h.tensor.untyped_storage().data_ptr(): h.tensor.untyped_storage().nbytes() for h in self._held}
        return {at: size for at, size in found.items() if at not in left_out and size}


@contextmanager
def saving() -> Iterator[Saved]:
    """What autograd holds of what runs inside."""
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        yield saved


def kept_bytes(module: Any, ids: Tensor) -> int:
    """Bytes that autograd holds at the end of a forward with labels, parameters, buffers and the ids left out."""
    with saving() as saved:
        loss = module(ids, labels=ids).loss
    size = sum(saved.storages(*module.parameters(), *module.buffers(), ids).values())
    del loss
    return size


class Tracked(TorchDispatchMode):
    """Bytes of living storages that were allocated inside: now, and at most. Views add nothing.

    What operators allocate below PyTorch's dispatcher, inside of a kernel, is not seen.
    """

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.live = self.most = 0
        self._seen: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._seen:
                    self._seen[storage] = None
                    size = storage.nbytes()
                    self.live += size
                    weakref.finalize(storage, self._freed, size)
        self.most = max(self.most, self.live)
        return out

    def _freed(self, size: int) -> None:
        self.live -= size


def held_bytes(module: Any, ids: Tensor) -> int:
    """Bytes that a forward with labels leaves alive as long as its loss is, whatever holds them, but for the loss."""
    with Tracked(*module.parameters(), *module.buffers(), ids) as tracked:
        loss = module(ids, labels=ids).loss
        module.loads.clear()
        return tracked.live - loss.untyped_storage().nbytes()


def step_peaks(module: Any, ids: Tensor) -> tuple[int, int, int]:
    """The most bytes that are allocated in the forward, the backward and the optimizer's part of a training step.

    Of the second step: the state of the optimizer is there. Parameters, buffers and that state count; ids do not.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    peaks = []
    for _ in range(2):
        module.loads.clear()
        there = [*module.parameters(), *module.buffers()]
        there += [x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
        base = sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in there}.values())
        peaks = []
        with Tracked(*there, ids) as tracked:
            loss = module(ids, labels=ids).loss
            peaks.append(base + tracked.most)
            tracked.most = tracked.live
            loss.backward()
            peaks.append(base + tracked.most)
            del loss
            tracked.most = tracked.live
            optimizer.step()
            peaks.append(base + tracked.most)
        optimizer.zero_grad()
    forward, backward, step = peaks
    return forward, backward, step
