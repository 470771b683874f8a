"""A square root that keeps the sign."""

from __future__ import annotations

from torch import Tensor


def signed_sqrt(x: Tensor, *, floor: float) -> Tensor:
    """sign(x) * sqrt(max(|x|, floor)), elementwise, same shape and dtype; zero gives zero.

    The gate of Engram's public code; ``floor`` keeps the gradient finite near zero.
    """
    return x.sign() * x.abs().clamp(min=floor).sqrt()
