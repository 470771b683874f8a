"""Layers that keep less for the gradient, and run again what they did not keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import sqrt
from typing import Any, Literal
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from ..kernels.kept import Kept

Recompute = Literal["none", "selective", "full", "mhc"]
"""What runs again in a backward pass: nothing; of each layer all but matrix products and attention; each layer; the
residual path of blocks of layers, without the sub-layers on it."""

Region = Callable[..., Any]
"""What is called as a layer is: with its state and the step."""


def regions(layers: Sequence[nn.Module], recompute: Recompute, streams: int) -> list[Region]:
    """What to call, one after the other, instead of layers whose residual path is so many streams wide."""
    if recompute == "mhc":
        size = block_size(len(layers), sum(len(sub_layers(layer)) for layer in layers), streams)
        return [partial(_block, layers[i : i + size]) for i in range(0, len(layers), size)]
    return [partial({"full": _full, "selective": _selective}[recompute], layer) for layer in layers]


def block_size(layers: int, subs: int, streams: int) -> int:
    """Layers of a block, of a model with so many layers and sub-layers: at least one.

    sqrt(n L / (n + 2)) sub-layers is where what is kept at the start of all blocks, n streams each, and what runs again
    of one of them, n + 2 for each sub-layer, are least together (arXiv:2512.24880, section 4.3.2).
    """
    best = sqrt(streams * subs / (streams + 2))
    return max(1, int(best * layers / max(1, subs) + 0.5))


def sub_layers(layer: nn.Module) -> tuple[str, ...]:
    """Names of what stands on the residual path of a layer: attention, feed-forward, memory."""
    return getattr(layer, "sub_layers", ())


def _full(layer: nn.Module, *args: Any) -> Any:
    return checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False)


def _selective(layer: nn.Module, *args: Any) -> Any:
    return checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: Kept().contexts())


def _block(layers: Sequence[nn.Module], *args: Any) -> Any:
    return _Block(layers, args).first()


class _Handle:
    """What the graph holds in the place of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.like = (tensor.shape, tensor.dtype)


class _Block:
    """Layers whose residual path runs again for its gradient; their sub-layers do not, but give what they gave."""

    def __init__(self, layers: Sequence[nn.Module], args: tuple[Any, ...]) -> None:
        self.layers = layers
        *self.state, self.step = args
        self.outputs: list[tuple[Tensor, bool]] = []  # of sub-layers, and whether they have a gradient
        self.handles: list[ref[_Handle]] = []
        self.tensors: WeakKeyDictionary[_Handle, Tensor] = WeakKeyDictionary()  # freed as the graph frees handles
        device = next((x.device.type for x in self.state), "cpu")
        self.autocast = partial(
            torch.autocast,
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
        )

    def first(self) -> Any:
        """The result of the last layer."""
        hooks = saved_tensors_hooks(self._pack, self._unpack)

        def run(forward: Region, *args: Any) -> Tensor:
            hooks.__exit__(None, None, None)  # what a sub-layer saves is kept as ever
            try:
                y = forward(*args)
            finally:
                hooks.__enter__()
            self.outputs.append((y.detach(), y.requires_grad))
            return y

        with hooks:
            return self._through(self.state, run, record=True)

    def _through(self, state: Sequence[Tensor], run: Callable[..., Tensor], *, record: bool) -> Any:
        """The layers in order, of whose sub-layers `run` gets the forward and the operands."""
        result: Any = tuple(state)
        for i, layer in enumerate(self.layers):
            if record and i and not getattr(layer, "records", False):
                self.step.record(result[0])
            with ExitStack() as stack:
                for name in sub_layers(layer):
                    part = layer.get_submodule(name)
                    stack.enter_context(_instead(part, partial(run, part.forward)))
                made = layer(*result, self.step)
            result = made if isinstance(made, tuple) else (made,)
        return result if isinstance(made, tuple) else made

    def _pack(self, tensor: Tensor) -> _Handle:
        handle = _Handle(tensor)
        self.handles.append(ref(handle))
        return handle

    def _unpack(self, handle: _Handle) -> Tensor:
        if handle not in self.tensors:
            self._again()
        return self.tensors[handle]

    def _again(self) -> None:
        """Runs the residual path and takes what it saves. RuntimeError where that is not what it was."""
        handles, outputs = iter(self.handles), iter(self.outputs)

        def take(tensor: Tensor) -> None:
            held = next(handles, None)
            handle = None if held is None else held()
            if held is None or (handle is not None and handle.like != (tensor.shape, tensor.dtype)):
                raise RuntimeError("a layer that runs again for its gradient does not do what it did at first")
            if handle is not None:
                self.tensors[handle] = tensor.detach()

        def give(forward: Region, *args: Any) -> Tensor:
            y, graded = next(outputs)
            return y.detach().requires_grad_(graded)

        state = [x.detach().requires_grad_(x.requires_grad) for x in self.state]
        with torch.enable_grad(), self.autocast(), saved_tensors_hooks(take, _lost):
            self._through(state, give, record=False)


def _lost(_: None) -> Tensor:
    raise RuntimeError("what runs again has no gradient of its own")


@contextmanager
def _instead(module: nn.Module, forward: Region) -> Iterator[None]:
    """The module runs another forward than its own."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
