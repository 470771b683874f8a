"""Softmax attention in C++, for tensors in memory: the text is in ``attend_on_cpu.cpp``."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import native
from .blocks import causal
from .dispatch import ACTS, use_cpp
from .kept import kept

if TYPE_CHECKING:
    from .state import Clock

POINTERS, SIZES, LEARNED = ctypes.c_void_p * 9, ctypes.c_int64 * 22, ctypes.c_int64 * 18


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Attention for activations of a dtype, and its gradient; None where they cannot be compiled."""
    text = native.text(Path(__file__).with_suffix(".cpp"))
    library = native.load(text, "attend", f"-DACT={ACTS[dtype]}", "-ffast-math", "-fno-finite-math-only")
    if library is not None:
        for found, sizes in ((library.attend, SIZES), (library.learn, LEARNED)):
            found.argtypes, found.restype = [POINTERS, sizes, ctypes.c_float, ctypes.c_int64], None
    return library


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    time: Clock,
    *,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    shared: Tensor | None = None,
) -> Tensor | None:
    """`attend` of any rows, without a gradient: [B, S, H, V]; None where it does not apply.

    Keys may lack their last channels, which are then those that all heads share: [B, T, R]. A query that sees nothing,
    as padding may, gives zeros.
    """
    given = (q, keys, values) if shared is None else (q, keys, values, shared)
    if not use_cpp(*given) or (library := _library(q.dtype)) is None:
        return None
    return _run(library, q, keys, values, time, scale=scale, window=window, sinks=sinks, shared=shared)[0]


def attend_graded(q: Tensor, keys: Tensor, values: Tensor, time: Clock, *, scale: float) -> Tensor | None:
    """`attend` of all tokens before each, with a gradient: [B, S, H, D]; None where it does not apply."""
    if not use_cpp(q, keys, values, graded=True) or not (q.requires_grad or keys.requires_grad or values.requires_grad):
        return None
    plain = time.aligned and time.starts is None and causal(new=q.shape[1], keys=keys.shape[1])
    # One thread learns of each key head
    fair = 2 * q.shape[0] * keys.shape[2] >= torch.get_num_threads()
    if not (plain and fair) or _library(q.dtype) is None:
        return None
    return _Attention.apply(q, keys, values, time, scale)  # pyright: ignore[reportReturnType]


class _Attention(torch.autograd.Function):
    """Keeps its operands, its result and the log-sum-exp of each softmax, of which weights are made again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, keys: Tensor, values: Tensor, time: Clock, scale: float) -> Tensor:
        library = _library(q.dtype)
        assert library is not None
        out, lse = kept(_run, library, q, keys, values, time, scale=scale, wanted=True)
        ctx.save_for_backward(q, keys, values, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, keys, values, out, lse = ctx.saved_tensors
        q, keys, values, grad = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, keys, values, grad))
        found = [x.new_empty(x.shape) for x in (q, keys, values)]
        library = _library(q.dtype)
        assert library is not None
        library.learn(
            POINTERS(*(x.data_ptr() for x in (q, keys, values, out, lse, grad, *found))),
            LEARNED(
                *(*q.shape[:3], keys.shape[2], q.shape[3], values.shape[3]),
                *(step for x in (q, keys, values, grad) for step in x.stride()[:3]),
            ),
            ctx.scale,
            torch.get_num_threads(),
        )
        return *found, None, None


def _run(
    library: ctypes.CDLL,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    time: Clock,
    *,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    shared: Tensor | None = None,
    wanted: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`attend`, and where it is ``wanted`` the log-sum-exp of each softmax: [B, S, H]."""
    q, keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, keys, values))
    if shared is not None and shared.stride(-1) != 1:
        shared = shared.contiguous()
    batch, new, heads, dim = q.shape
    count, groups, own = keys.shape[1:]
    width = values.shape[-1]
    recalled = time.cached and window is not None
    first = None if time.aligned else time.first.contiguous()
    starts = None if time.starts is None else time.starts.contiguous()
    if sinks is not None:
        sinks = sinks.to(torch.float32).contiguous()
    out = q.new_empty((batch, new, heads, width))
    lse = q.new_empty((batch, new, heads), dtype=torch.float32) if wanted else None
    operands = q, keys, shared, values, sinks, first, starts, out, lse
    library.attend(
        POINTERS(*(None if x is None else x.data_ptr() for x in operands)),
        SIZES(
            *(batch, new, heads, groups, count, dim, own, width),
            *q.stride()[:3],
            *keys.stride()[:3],
            *((0, 0) if shared is None else shared.stride()[:2]),
            *values.stride()[:3],
            *(count - new if recalled else time.past, time.past + 1 if recalled else 0, window or 0),
        ),
        scale,
        torch.get_num_threads(),
    )
    return out, lse
