"""Softmax attention in C++, for tensors in memory, without a gradient: the text is in ``attend_on_cpu.cpp``."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import native
from .dispatch import use_cpp

if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import Clock

ACTS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
"""What the text calls the dtypes of activations that it knows."""

POINTERS, SIZES = ctypes.c_void_p * 8, ctypes.c_int64 * 22


@functools.cache
def _function(dtype: torch.dtype) -> Callable[..., None] | None:
    """Attention for activations of a dtype; None where it cannot be compiled."""
    text = native.text(Path(__file__).with_suffix(".cpp"))
    library = native.load(text, "attend", f"-DACT={ACTS[dtype]}", "-ffast-math", "-fno-finite-math-only")
    if library is None:
        return None
    found = library.attend
    found.argtypes, found.restype = [POINTERS, SIZES, ctypes.c_float, ctypes.c_int64], None
    return found


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
    """`attend` of any rows: [B, S, H, V]; None where it does not apply.

    Keys may lack their last channels, which are then those that all heads share: [B, T, R]. A query that sees nothing,
    as padding may, gives zeros.
    """
    given = (q, keys, values) if shared is None else (q, keys, values, shared)
    if not use_cpp(*given) or (function := _function(q.dtype)) is None:
        return None
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
    operands = q, keys, shared, values, sinks, first, starts, out
    function(
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
    return out
