"""What lies in memory of a function that one kernel runs: what it takes, gives, saves, and what its gradient takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tensors = Sequence[Tensor]
Dims = tuple[int, ...]


class Array(NamedTuple):
    """What lies in memory without gaps: [tokens, *dims], or [*dims] where there is one for all tokens.

    Tokens of a kernel may be heads of tokens of a tensor, whose dims are then other ones.
    """

    dims: Dims
    act: bool
    """Whether it is stored in the dtype of activations; else in float32."""
    once: bool = False
    """Whether there is one for all tokens: a parameter."""
    shared: int = 1
    """How many tokens one after the other have one of it in common."""
    shape: Dims | None = None
    """The dims of the tensor after those that count tokens, where they are not these."""
    spread: bool = False
    """Whether it may come with one row for all rows of tokens."""

    @property
    def own(self) -> Dims:
        """The dims of the tensor after those that count tokens."""
        return self.dims if self.shape is None else self.shape

    def dtype(self, act: torch.dtype) -> torch.dtype:
        """Its dtype where activations are of this one."""
        return act if self.act else torch.float32


def act(*dims: int, **more: Any) -> Array:
    """An array in the dtype of activations."""
    return Array(dims, True, **more)


def fp32(*dims: int, **more: Any) -> Array:
    """An array in float32."""
    return Array(dims, False, **more)


class Layout:
    """The arrays of a function by name, in order; the first ``lead`` dims of tensors count tokens, of which the kernel
    has as many as the take ``tokens`` has.

    The kernel of the gradient takes ``backward``, names of takes, gives, what is saved, and ``grad_<give>``; it gives
    the gradients of ``learns``, names of takes; that of ``alike[take]`` is that of the take too.
    """

    def __init__(
        self,
        lead: int,
        tokens: str,
        takes: Mapping[str, Array],
        gives: Mapping[str, Array],
        saved: Mapping[str, Array],
        backward: Sequence[str],
        learns: Sequence[str],
        alike: Mapping[str, str],
    ) -> None:
        self.lead, self.names = lead, list(takes)
        self.takes, self.gives, self.saved = list(takes.values()), list(gives.values()), list(saved.values())
        self.first, self.size = self.names.index(tokens), math.prod(takes[tokens].dims)
        self.dtypes = {
            tuple(a.dtype(dtype) for a in self.takes): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32)
        }
        self.spread = [(i, a) for i, a in enumerate(self.takes) if a.spread]
        self.learned = [self.names.index(n) for n in learns]
        # Each take that has a gradient, and which of those that the kernel gives is its
        self.targets = [(self.names.index(n), list(learns).index(alike.get(n, n))) for n in (*learns, *alike)]
        # Where the kernel of the gradient finds what it takes: among takes, gives and saved, then among the gradients
        places, grads = [*takes, *gives, *saved], [f"grad_{n}" for n in gives]
        every = [*self.takes, *self.gives, *self.saved]
        self.kept = [places.index(n) for n in backward if n in places]
        self.upstream = [grads.index(n) for n in backward if n in grads]
        self.read = [*(every[i] for i in self.kept), *(self.gives[i] for i in self.upstream)]

    def given(self, takes: Tensors, dtype: torch.dtype) -> list[Tensor]:
        """New tensors for what is given of takes and what is saved."""
        first = takes[self.first]
        lead, tokens = first.shape[: self.lead], self.tokens(takes)
        made = [first.new_empty((*lead, *a.own), dtype=a.dtype(dtype)) for a in self.gives]
        return made + [first.new_empty((tokens, *a.dims), dtype=a.dtype(dtype)) for a in self.saved]

    def gradients(self, read: Tensors, dtype: torch.dtype, sums: torch.dtype | None = None) -> list[Tensor]:
        """New tensors for the gradients of what learns, of what their kernel takes: zeros for sums, in the dtypes of
        their parameters or in ``sums``.
        """
        last = read[-1]
        lead = last.shape[: self.lead]
        return [
            last.new_zeros(a.own, dtype=sums or a.dtype(dtype))
            if a.once
            else last.new_empty((*lead, *a.own), dtype=a.dtype(dtype))
            for a in (self.takes[i] for i in self.learned)
        ]

    def tokens(self, takes: Tensors) -> int:
        """How many tokens the kernel has."""
        return takes[self.first].numel() // self.size

    def tokens_back(self, read: Tensors) -> int:
        """The same of what the kernel of the gradient takes: last a gradient of what was given."""
        return read[-1].numel() // math.prod(self.read[-1].dims)


def spread(array: Array, x: Tensor, like: Tensor) -> Tensor:
    """What may come with one row for all, with as many as there are."""
    own = x.dim() - len(array.own)
    if x.shape[:own] == like.shape[:own]:  # as of one row
        return x.contiguous()
    return x.expand(*like.shape[:own], *x.shape[own:]).contiguous()
