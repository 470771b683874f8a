"""The experts of a mixture as one function: each token through the matrices of those chosen for it, and their sum.

With ``ARCHC_KERNELS=cpp``, for float32 and bfloat16 tensors in memory and without a gradient, it is one call of C++
(``experts.cpp``) that reads the matrices of the chosen experts once, and makes no rows that the caches do not hold.
Else its reference runs.
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
from .dispatch import use_cpp

ACTS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
"""What the text calls the dtypes of activations that it knows."""

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
    its biases where there are any. C++ knows what meets by a `Gate`, not what else the ``reference`` may do.
    """

    def __init__(
        self, reference: Callable[..., Tensor], *, gate: Gate | None = None, inputs_first: bool = False
    ) -> None:
        self.reference, self.gate, self.inputs_first = reference, gate, inputs_first

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor, *parameters: Tensor) -> Tensor:
        """[..., D] in the dtype of x."""
        if self.gate is not None and not self.inputs_first and use_cpp(x, *parameters):
            made = _in_one(x, ids, weights, parameters, self.gate)
            if made is not None:
                return made
        return self.reference(x, ids, weights, *parameters)


def _in_one(x: Tensor, ids: Tensor, weights: Tensor, parameters: tuple[Tensor, ...], gate: Gate) -> Tensor | None:
    """One call of C++; None where it cannot be."""
    library = None if torch.is_autocast_enabled("cpu") else _library(x.dtype)
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
