"""Ops in C++, for tensors in memory: where tokens are few, as when they are decoded one by one, the calls of PyTorch
take the time, and not their arithmetic.

With ``ARCHC_KERNELS=cpp``, for float32 and bfloat16, and without a gradient. Each function gives None where it does not
apply, and its caller goes on in PyTorch. The text is in ``on_cpu.cpp``.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import calls, native
from .dispatch import ACTS, use_cpp, wants_cpp
from .library import as_rows

if TYPE_CHECKING:
    from .state import Clock

FEW = 32
"""Rows up to which the matrices of experts are read row by row, not handed to a library."""

FEW_TOKENS = 4
"""The same of tokens that all meet the same matrices."""

POINTER, REAL = ctypes.c_void_p, ctypes.c_float
NUMBER = ctypes.c_void_p
"""A word of 64 bits as pointers are, which ctypes hands on in half the time that it takes for a c_int64."""

SIGNATURES = {
    "attend": [*[POINTER] * 6, *[NUMBER] * 7, REAL, NUMBER],
    "pick": [*[POINTER] * 4, *[NUMBER] * 6],
    "topk": [*[POINTER] * 2, *[NUMBER] * 3],
    "sort_choices": [*[POINTER] * 3, *[NUMBER] * 2],
    "grouped": [*[POINTER] * 5, *[NUMBER] * 6],
    "combine": [*[POINTER] * 4, *[NUMBER] * 3],
    "by_group": [*[POINTER] * 3, *[NUMBER] * 5],
    "recall": [*[POINTER] * 3, *[NUMBER] * 6],
    "rms_norm": [*[POINTER] * 3, *[NUMBER] * 2, REAL, NUMBER],
    "rotate": [*[POINTER] * 3, *[NUMBER] * 6, REAL, NUMBER],
    "swiglu": [*[POINTER] * 3, *[NUMBER] * 4, *[REAL] * 3, NUMBER],
}


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The functions for activations of a dtype; None where they cannot be compiled."""
    text = native.text(Path(__file__).with_suffix(".cpp"))
    library = native.load(text, "on_cpu", f"-DACT={ACTS[dtype]}", "-ffast-math", "-fno-finite-math-only")
    if library is not None:
        for name, types in SIGNATURES.items():
            found = getattr(library, name)
            found.argtypes, found.restype = types, None
    return library


def alone(time: Clock) -> bool:
    """Whether each row has one new token, and all stand at the same slot."""
    return time.new == 1 and time.aligned and time.starts is None


def _pointer(x: Tensor | None) -> int | None:
    """Where the numbers of x lie."""
    return None if x is None else x.data_ptr()


def _library_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The functions for operands like these, if they run on them."""
    return _library(tensors[0].dtype) if use_cpp(*tensors) else None


def attend(
    q: Tensor,
    recent: Tensor,
    sinks: Tensor | None,
    time: Clock,
    *,
    scale: float,
    window: int,
    entries: Tensor | None,
    picks: Tensor | None,
    every: int,
) -> Tensor | None:
    """`sparse_attention` of the one new token of each row: [B, 1, H, D]."""
    if not alone(time) or not use_cpp(q, recent, *(() if entries is None else (entries,))):
        return None
    (batch, _, heads, dim), rows, count, step = q.shape, recent.shape[1], 0, 0
    if sinks is not None and (sinks.dtype is not torch.float32 or not sinks.is_contiguous()):
        return None
    if entries is not None:
        if entries.stride()[1:] != (dim, 1):
            return None
        count, step = min(entries.shape[1], (time.past + 1) // every), entries.stride(0)
        if picks is not None:
            picks, count = picks.contiguous(), picks.shape[-1]
    library = _library(q.dtype)
    if library is None:
        return None
    q, recent = q.contiguous(), recent.contiguous()
    out = torch.empty_like(q)
    library.attend(
        *(q.data_ptr(), recent.data_ptr(), _pointer(entries), _pointer(picks), _pointer(sinks), out.data_ptr()),
        *(batch, heads, dim, rows, rows - min(window, time.past + 1), count, step, scale, torch.get_num_threads()),
    )
    return out


def pick(q: Tensor, keys: Tensor, weights: Tensor, time: Clock, *, k: int, every: int) -> Tensor | None:
    """`index_topk` of the one new token of each row: [B, 1, min(k, E)]."""
    if not alone(time) or not use_cpp(q, keys, weights):
        return None
    (batch, _, heads, dim), most, seen = q.shape, min(k, keys.shape[1]), (time.past + 1) // every
    library = _library(q.dtype)
    if library is None or seen < most or keys.stride()[1:] != (dim, 1):
        return None
    q, weights, picks = q.contiguous(), weights.contiguous(), q.new_empty((batch, 1, most), dtype=torch.int64)
    library.pick(
        *(q.data_ptr(), keys.data_ptr(), weights.data_ptr(), picks.data_ptr()),
        *(batch, heads, dim, min(seen, keys.shape[1]), keys.stride(0), most),
    )
    return picks


def topk(x: Tensor, k: int) -> Tensor | None:
    """`topk_lowest` of float32 rows."""
    if x.dtype is not torch.float32 or not use_cpp(x):
        return None
    library = _library(x.dtype)
    if library is None:
        return None
    x, count = x.contiguous(), x.shape[-1]
    best = x.new_empty((*x.shape[:-1], k), dtype=torch.int64)
    library.topk(x.data_ptr(), best.data_ptr(), x.numel() // max(1, count), count, k)
    return best


def sort_choices(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor] | None:
    """The order and the ends of `dispatch`."""
    library = _library_for(x)
    if library is None:
        return None
    ids = ids.contiguous()
    count = ids.numel()
    order, ends = ids.new_empty(count), ids.new_empty(experts, dtype=torch.int32)
    library.sort_choices(ids.data_ptr(), order.data_ptr(), ends.data_ptr(), count, experts)
    return order, ends


def grouped(x: Tensor, weight: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor | None:
    """`grouped_linear` of few rows."""
    rows, step = x.shape[0], x.stride(0)
    if rows > FEW:
        return None
    library = _library_for(x, weight, *(() if bias is None else (bias,)))
    if library is None or not weight.is_contiguous() or x.stride(1) != 1 or step not in (0, x.shape[1]):
        return None
    experts, out, width = weight.shape
    y, bias = x.new_empty((rows, out)), None if bias is None else bias.contiguous()
    library.grouped(
        *(x.data_ptr(), weight.data_ptr(), ends.data_ptr(), _pointer(bias), y.data_ptr()),
        *(rows, step, experts, out, width, torch.get_num_threads()),
    )
    return y


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """`linear` of few x [..., in]."""
    call = _linear(x.dtype) if wants_cpp() else None
    return None if call is None else call(torch.get_num_threads(), x, weight, bias)


@functools.cache
def _linear(dtype: torch.dtype) -> calls.Call | None:
    library, found = _library(dtype) if dtype in ACTS else None, calls.module()
    if library is None or found is None:
        return None
    return functools.partial(found.linear, native.address(library, "linear"), dtype == torch.bfloat16, FEW_TOKENS)


def combine(y: Tensor, weights: Tensor, order: Tensor) -> Tensor | None:
    """`combine` of weights [N, K]: [N, D]."""
    library = _library_for(y) if y.is_contiguous() else None
    if library is None:
        return None
    (tokens, k), dim = weights.shape, y.shape[-1]
    weights, out = weights.to(torch.float32).contiguous(), y.new_empty((tokens, dim))
    library.combine(y.data_ptr(), weights.data_ptr(), order.data_ptr(), out.data_ptr(), tokens, k, dim)
    return out


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor | None:
    """`rms_norm` of any rows."""
    library = _library_for(x, *(() if weight is None else (weight,)))
    if library is None:
        return None
    x, out, dim = x.contiguous(), x.new_empty(x.shape), x.shape[-1]
    weight = None if weight is None else weight.contiguous()
    rows = x.numel() // dim
    library.rms_norm(x.data_ptr(), _pointer(weight), out.data_ptr(), rows, dim, eps, torch.get_num_threads())
    return out


def rotate(x: Tensor, angles: Tensor, *, neighbours: bool, last: bool, inverse: bool) -> Tensor | None:
    """`rotate` of any tokens."""
    library = _library_for(x)
    if library is None or angles.dtype is not torch.float32 or angles.shape[0] != x.shape[0]:
        return None
    x, angles, dim, pairs = x.contiguous(), angles.contiguous(), x.shape[-1], angles.shape[2]
    out, tokens = x.new_empty(x.shape), x.shape[0] * x.shape[1]
    library.rotate(
        *(x.data_ptr(), angles.data_ptr(), out.data_ptr()),
        *(tokens, x.shape[2] if x.dim() == 4 else 1, dim, dim - 2 * pairs if last else 0, pairs, neighbours),
        *(-1.0 if inverse else 1.0, torch.get_num_threads()),
    )
    return out


def swiglu(gate: Tensor, up: Tensor, limit: float | None, alpha: float, shift: float) -> Tensor | None:
    """`swiglu` of any rows."""
    library = _library_for(gate, up)
    if library is None:
        return None
    out, dim = gate.new_empty(gate.shape), gate.shape[-1]
    if gate.is_contiguous() and up.is_contiguous():
        rows, steps = gate.numel() // dim, (dim, dim)
    else:
        gate, up = as_rows(gate), as_rows(up)
        rows, steps = gate.shape[0], (gate.stride(0), up.stride(0))
    library.swiglu(
        *(gate.data_ptr(), up.data_ptr(), out.data_ptr(), rows, dim, *steps),
        *(float("inf") if limit is None else limit, alpha, shift, torch.get_num_threads()),
    )
    return out


def by_group(x: Tensor, matrices: Tensor) -> Tensor | None:
    """Few x [B, S, G, I] by a matrix of each group [G, O, I]: [B, S, G, O]."""
    batch, new, groups, width = x.shape
    if batch * new > FEW_TOKENS or not use_cpp(x, matrices) or not matrices.is_contiguous():
        return None
    library = _library(x.dtype)
    if library is None:
        return None
    x, out = x.contiguous(), matrices.shape[1]
    y = x.new_empty((batch, new, groups, out))
    library.by_group(
        *(x.data_ptr(), matrices.data_ptr(), y.data_ptr()),
        *(batch * new, groups, out, width, torch.get_num_threads()),
    )
    return y


def recall(x: Tensor, data: Tensor, keep: int, time: Clock) -> Tensor | None:
    """`recall` of a store of x's own dtype, where rows are aligned and full."""
    if not (time.aligned and time.full) or keep > data.shape[1] or not use_cpp(x, data):
        return None
    library = _library(x.dtype)
    if library is None or not data.is_contiguous():
        return None
    x, (batch, new) = x.contiguous(), x.shape[:2]
    out = x.new_empty((batch, keep + new, *x.shape[2:]))
    if out.numel():
        library.recall(
            *(x.data_ptr(), data.data_ptr(), out.data_ptr()),
            *(batch, new, keep, data.shape[1], time.past, x[0, 0].numel()),
        )
    return out
