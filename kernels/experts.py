"""The experts of a mixture as one function: each token through the matrices of those chosen for it, and their sum.

With ``ARCHC_KERNELS=cpp``, for float32 and bfloat16 tensors in memory and without a gradient, it is one call of C++
(``experts.cpp``) that reads the matrices of the chosen experts once, and makes no rows that the caches do not hold.

Without C++, but as much else, one token meets its experts in the order of its choices, and rows that caches do not hold
are made expert by expert in memory that the next expert has again. Else its reference runs.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import native
from .dispatch import ACTS, chosen, in_memory, use_cpp
from .upcast import upcast

MANY = 1 << 21
"""Numbers in the rows of all choices from which these are not made at once: 8 MiB in float32."""

POINTER, NUMBER, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Gate(NamedTuple):
    """How the two halves of the first product meet: (up + shift) * gate * sigmoid(alpha * gate), cut as `swiglu` does.

    Rows of the matrix give gate and up ``by_turns``, or those of gate come first.
    """

    by_turns: bool = False
    limit: float | None = None
    alpha: float = 1.0
    shift: float = 0.0


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The text for activations of a dtype; None where it cannot be compiled."""
    text = native.text(Path(__file__).with_suffix(".cpp"))
    library = native.load(text, "experts", f"-DACT={ACTS[dtype]}", "-ffast-math", "-fno-finite-math-only")
    if library is not None:
        library.experts.argtypes = [*[POINTER] * 8, *[NUMBER] * 6, *[REAL] * 3, NUMBER]
        library.experts.restype = None
    return library


class Mixture:
    """A function of x [..., D], ids and weights [..., K] of its experts, and their parameters: what they give, weighed
    and summed [..., D].

    Parameters are matrices [E, 2 I, D] and [E, D, I], or with ``inputs_first`` [E, D, 2 I] and [E, I, D], each before
    its biases where there are any. ``opened`` gives of the first product what the second takes; C++ knows it as a
    `Gate`, or not at all. The ``reference`` is the same of all rows at once.
    """

    def __init__(
        self,
        reference: Callable[..., Tensor],
        opened: Callable[[Tensor], Tensor],
        *,
        gate: Gate | None = None,
        inputs_first: bool = False,
    ) -> None:
        self.reference, self.opened, self.gate, self.inputs_first = reference, opened, gate, inputs_first

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor, *parameters: Tensor) -> Tensor:
        """[..., D] in the dtype of x."""
        if self.gate is not None and not self.inputs_first and use_cpp(x, *parameters):
            made = _in_one(x, ids, weights, parameters, self.gate)
            if made is not None:
                return made
        if chosen() in ("auto", "cpp") and in_memory(x, *parameters) and weights.is_cpu:
            if x.numel() == x.shape[-1]:
                return self._of_one(x, ids, weights, parameters)
            if ids.numel() * x.shape[-1] >= MANY:
                return self._by_expert(x, ids, weights, parameters)
        return self.reference(x, ids, weights, *parameters)

    def _of_one(self, x: Tensor, ids: Tensor, weights: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Of one token: without sorting."""
        row, (first, second), total = x.view(1, -1), self._matrices(parameters), None
        for expert, weight in zip(ids.flatten().tolist(), weights.flatten().tolist(), strict=True):
            made = upcast(_product(self.opened(_product(row, *first, expert)), *second, expert)) * weight
            total = made if total is None else total.add_(made)
        assert total is not None
        return total.to(x.dtype).view(x.shape)

    def _by_expert(self, x: Tensor, ids: Tensor, weights: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Of many tokens: the rows of an expert, and what is made of them, lie where those of the last one lay."""
        tokens, (first, second) = x.flatten(0, -2), self._matrices(parameters)
        experts, dim, both = len(first[0]), x.shape[-1], first[0].shape[-1]
        choices, order = ids.flatten().sort(stable=True)
        sizes = torch.bincount(choices, minlength=experts).tolist()
        places = (order // ids.shape[-1]).split(sizes)
        scales = upcast(weights).flatten().index_select(0, order).unsqueeze(-1).split(sizes)
        most, total = max(sizes), torch.zeros_like(tokens, dtype=torch.float32)
        rows, halves, made = (x.new_empty((most, n)) for n in (dim, both, dim))
        for expert, n in enumerate(sizes):
            if n:
                torch.index_select(tokens, 0, places[expert], out=rows[:n])
                hidden = self.opened(_product(rows[:n], *first, expert, out=halves[:n]))
                y = _product(hidden, *second, expert, out=made[:n])
                total.index_add_(0, places[expert], y * scales[expert])
        return total.to(x.dtype).view(x.shape)

    def _matrices(self, parameters: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor | None]]:
        """The two matrices [E, in, out], each with its biases if there are any."""
        matrices, biases = (parameters[::2], parameters[1::2]) if len(parameters) == 4 else (parameters, (None, None))
        turned = matrices if self.inputs_first else [m.mT for m in matrices]
        return list(zip(turned, biases, strict=True))


def _product(x: Tensor, matrices: Tensor, biases: Tensor | None, expert: int, out: Tensor | None = None) -> Tensor:
    """Rows times the matrix of an expert, plus its bias."""
    if biases is None:
        return torch.mm(x, matrices[expert], out=out)
    return torch.addmm(biases[expert], x, matrices[expert], out=out)


def _in_one(x: Tensor, ids: Tensor, weights: Tensor, parameters: tuple[Tensor, ...], gate: Gate) -> Tensor | None:
    """One call of C++; None where it cannot be."""
    library = _library(x.dtype)
    if library is None or not weights.is_cpu:
        return None
    first, first_bias, second, second_bias = (
        parameters if len(parameters) == 4 else (parameters[0], None, parameters[1], None)
    )
    for p in parameters:
        if not p.is_contiguous():
            return None
    x, ids, weights = x.contiguous(), ids.contiguous(), weights.to(torch.float32).contiguous()
    out, k = torch.empty_like(x), ids.shape[-1]
    count, dim, hidden = second.shape
    library.experts(
        *(x.data_ptr(), ids.data_ptr(), weights.data_ptr(), first.data_ptr()),
        *(None if first_bias is None else first_bias.data_ptr(), second.data_ptr()),
        *(None if second_bias is None else second_bias.data_ptr(), out.data_ptr()),
        *(ids.numel() // k, k, count, dim, hidden, gate.by_turns),
        *(float("inf") if gate.limit is None else gate.limit, gate.alpha, gate.shift, torch.get_num_threads()),
    )
    return out
