"""FLOPs that PyTorch runs: fused attention on a CPU counted as its matrix products, not as nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def _attention(q: torch.Size, k: torch.Size, v: torch.Size, *args: Any, **kwargs: Any) -> int:
    """The two products of fused attention over q [B, H, S, D], k [B, G, T, D] and v [B, G, T, V]."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


def _attention_backward(
    grad: torch.Size, q: torch.Size, k: torch.Size, v: torch.Size, *args: Any, **kwargs: Any
) -> int:
    """Its gradient: the scores again, then those of values, weights, queries and keys."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (3 * q[3] + 2 * v[3])


ATEN = torch.ops.aten
FUSED = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Counts what runs inside, a backward pass included."""
    with FlopCounterMode(display=False, custom_mapping=FUSED) as mode:
        yield mode
