"""What runs the kernels of a function: C++ by pointers, or launchers of Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import native
from .arrays import Array, Layout, Tensors, spread
from .library import on_device

if TYPE_CHECKING:
    import ctypes

Launcher = Callable[..., Any]

FORMS = 64
"""Of how many numbers of tokens a runner remembers what it gives."""


class Runner:
    """The kernels of a function, for one dtype of activations."""

    learns: bool
    """Whether there is a kernel of the gradient."""

    def __init__(self, layout: Layout, dtype: torch.dtype) -> None:
        self.layout, self.dtype = layout, dtype

    def forward(self, takes: Tensors) -> Tensors:
        """The gives."""
        raise NotImplementedError

    def training(self, takes: Tensors) -> Tensors:
        """The gives, and what is saved for the gradient."""
        raise NotImplementedError

    def backward(self, read: Tensors) -> list[Tensor]:
        """The gradients, each in the dtype of what it is the gradient of."""
        raise NotImplementedError


class Native(Runner):
    """Kernels in C++: functions ``name``, ``name_training`` where something is saved, and ``name_backward``."""

    def __init__(self, name: str, layout: Layout, dtype: torch.dtype, library: ctypes.CDLL) -> None:
        super().__init__(layout, dtype)
        given = len(layout.takes) + len(layout.gives)
        self._first, self._lead, self._size = layout.first, layout.lead, layout.size
        self._given = [(a.own, a.dtype(dtype)) for a in layout.gives]
        self._like: dict[torch.Size, Tensors] = {}
        self.learns = bool(layout.learned)
        self._forward = self._training = native.function(library, name, given)
        self.address = native.address(library, name)
        if layout.saved:
            self._training = native.function(library, f"{name}_training", given + len(layout.saved))
        if self.learns:
            self._backward = native.function(library, f"{name}_backward", len(layout.read) + len(layout.learned))

    def forward(self, takes: Tensors) -> Tensors:
        # Run many times for each token that is decoded, so without more ado
        first = takes[self._first]
        lead = first.shape[: self._lead]
        like = self._like.get(lead) or self._forms(lead, first)
        made = [torch.empty_like(x) for x in like]
        self._run(self._forward, takes, made, first.numel() // self._size)
        return made

    def _forms(self, lead: torch.Size, first: Tensor) -> Tensors:
        """Tensors of one number that look like what is given: to make one alike takes a third of the time that to say
        its dims and dtype takes.
        """
        if len(self._like) == FORMS:
            self._like.clear()
        self._like[lead] = [first.new_empty((), dtype=dtype).expand((*lead, *own)) for own, dtype in self._given]
        return self._like[lead]

    def training(self, takes: Tensors) -> Tensors:
        made = self.layout.given(takes, self.dtype)
        self._run(self._training, takes, made, self.layout.tokens(takes))
        return made

    def _run(self, function: Any, takes: Tensors, made: Tensors, tokens: int) -> None:
        if not tokens:
            return
        # Held until the end: where there were gaps, these are the only references to what was packed
        takes = [x.contiguous() for x in takes]
        for i, array in self.layout.spread:
            takes[i] = spread(array, takes[i], takes[self._first])
        function(*[x.data_ptr() for x in takes], *[x.data_ptr() for x in made], tokens)

    def backward(self, read: Tensors) -> list[Tensor]:
        layout = self.layout
        made = layout.gradients(read, self.dtype, torch.float32)
        read = _spread(layout.read, [x.contiguous() for x in read])
        self._backward(*[x.data_ptr() for x in read], *[x.data_ptr() for x in made], layout.tokens_back(read))
        return _settled(layout, made, self.dtype)


class Launched(Runner):
    """Kernels in Triton: launchers for training, and of the gradient, on tensors [tokens, *dims]."""

    def __init__(self, launchers: Sequence[Launcher], layout: Layout, dtype: torch.dtype) -> None:
        super().__init__(layout, dtype)
        self.launchers, self.learns = launchers, len(launchers) > 1

    def forward(self, takes: Tensors) -> Tensors:
        return self.training(takes)[: len(self.layout.gives)]

    def training(self, takes: Tensors) -> Tensors:
        layout, tokens = self.layout, self.layout.tokens(takes)
        if tokens == 0:
            return layout.given(takes, self.dtype)
        for i, array in layout.spread:
            takes = [*takes[:i], spread(array, takes[i], takes[layout.first]), *takes[i + 1 :]]
        made = self._launched(0, layout.takes, takes, tokens)
        lead = takes[layout.first].shape[: layout.lead]
        given = [x.view((*lead, *a.own)) for a, x in zip(layout.gives, made, strict=False)]
        return [*given, *made[len(given) :]]

    def backward(self, read: Tensors) -> list[Tensor]:
        layout, tokens = self.layout, self.layout.tokens_back(read)
        made = (
            layout.gradients(read, self.dtype)
            if tokens == 0
            else self._launched(1, layout.read, _spread(layout.read, read), tokens)
        )
        return _settled(layout, made, self.dtype, read[-1].shape[: layout.lead])

    def _launched(self, which: int, arrays: Sequence[Array], tensors: Tensors, tokens: int) -> Tensors:
        """What a launcher gives of tensors, laid out without gaps, their tokens in one dim."""
        laid = [
            x.contiguous().view((*(() if a.once else (tokens // a.shared,)), *a.dims))
            for a, x in zip(arrays, tensors, strict=True)
        ]
        with on_device(laid[0]):
            made = self.launchers[which](*laid)
        return (made,) if isinstance(made, Tensor) else made


def _spread(arrays: Sequence[Array], read: Tensors) -> Tensors:
    """What the kernel of the gradient takes, where that may come with one row for all."""
    return [spread(a, x, read[-1]) if a.spread else x for a, x in zip(arrays, read, strict=True)]


def _settled(layout: Layout, made: Tensors, dtype: torch.dtype, lead: Sequence[int] = ()) -> list[Tensor]:
    """Gradients in the dtypes, and if asked the dims, of what they are the gradients of."""
    learned = [layout.takes[i] for i in layout.learned]
    if lead:
        made = [x.view((*(() if a.once else lead), *a.own)) for a, x in zip(learned, made, strict=True)]
    return [x.to(a.dtype(dtype)) for a, x in zip(learned, made, strict=True)]
