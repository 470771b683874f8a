"""The cosines and sines of rotary positions, once per forward, with the scalings that stretch a context."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

Scaling = Literal["linear", "llama3", "yarn"]


def rope_angles(
    positions: Tensor,
    *,
    dim: int,
    theta: float,
    scaling: Scaling | None = None,
    factor: float = 1.0,
    original: int = 0,
    low: float = 1.0,
    high: float = 4.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    magnitude: float = 1.0,
) -> Tensor:
    """cos and sin, times magnitude, of positions [B, S] times dim / 2 frequencies: float32 [B, S, dim / 2, 2].

    Frequency i is theta^(-2i / dim) (Su et al. 2021, arXiv:2104.09864), then scaled:

    - ``linear``: divided by factor (Chen et al. 2023, arXiv:2306.15595);
    - ``llama3``: divided by factor below ``low`` rotations over the ``original`` context, kept above ``high``, blended
      between (Llama 3.1, arXiv:2407.21783);
    - ``yarn``: divided by factor below ``beta_slow`` rotations, kept above ``beta_fast``, between them blended along a
      ramp over channels, whose ends ``truncate`` rounds to whole channels (Peng et al. 2023, arXiv:2309.00071).

    Positions become float32, and every step is one in float32, in the order of transformers' ``modeling_rope_utils``;
    float64 positions give everything in float64.
    """
    like = positions if positions.dtype == torch.float64 else positions.to(torch.float32)
    settings = dim, theta, scaling, factor, original, low, high, beta_fast, beta_slow, truncate
    # What stands in for a tensor while a model is traced must not be kept
    real = type(like) is Tensor and not like.is_meta and not torch.compiler.is_compiling()
    frequencies = (_kept if real else _scaled)(like.dtype, like.device, *settings)
    if real and not like.numel():  # of entries, as when most single tokens are decoded
        return like.new_empty(*like.shape, dim // 2, 2)
    angles = like[..., None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos, sin) if magnitude == 1 else (cos * magnitude, sin * magnitude), dim=-1)


@lru_cache(maxsize=256)
def _kept(*settings: Any) -> Tensor:
    """What `_scaled` gives, made once: every token that is decoded asks for it."""
    with torch.inference_mode(mode=False):  # a later call may need it for a gradient
        return _scaled(*settings)


def _scaled(
    dtype: torch.dtype,
    device: torch.device,
    dim: int,
    theta: float,
    scaling: Scaling | None,
    factor: float,
    original: int,
    low: float,
    high: float,
    beta_fast: float,
    beta_slow: float,
    truncate: bool,
) -> Tensor:
    """Radians per token of each pair of channels: [dim / 2]."""
    wavelengths = _wavelengths(dim, theta, dtype, device)
    if scaling is None:
        return 1.0 / wavelengths
    if scaling == "linear":
        return 1.0 / wavelengths / factor
    if scaling == "llama3":
        return _llama3(1.0 / wavelengths, factor, original, low, high)
    if scaling == "yarn":
        return _yarn(wavelengths, factor, _yarn_range(dim, theta, original, beta_fast, beta_slow, truncate))
    raise ValueError(f"scaling is {scaling!r}; it must be None, 'linear', 'llama3' or 'yarn'")


def _wavelengths(dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """theta^(2i / dim), [dim / 2]: the tokens that a channel needs to turn by one radian."""
    return theta ** (torch.arange(0, dim, 2, dtype=dtype, device=device) / dim)


def _llama3(frequencies: Tensor, factor: float, original: int, low: float, high: float) -> Tensor:
    turn = 2 * math.pi / frequencies
    scaled = torch.where(turn > original / low, frequencies / factor, frequencies)
    kept = (original / turn - low) / (high - low)
    blend = (1 - kept) * scaled / factor + kept * scaled
    return torch.where((turn >= original / high) & (turn <= original / low), blend, scaled)


def _yarn_range(
    dim: int, theta: float, original: int, beta_fast: float, beta_slow: float, truncate: bool
) -> tuple[float, float]:
    """The channels between which YaRN blends, as real numbers."""

    def channel(rotations: float) -> float:
        return (dim * math.log(original / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    first, last = channel(beta_fast), channel(beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    # Equal ends would divide zero by zero; the width is the one transformers uses.
    return first, last + 0.001 if first == last else last


def _yarn(wavelengths: Tensor, factor: float, ramp: tuple[float, float]) -> Tensor:
    first, last = ramp
    stretched, kept = 1.0 / (factor * wavelengths), 1.0 / wavelengths
    pair = torch.arange(len(wavelengths), dtype=wavelengths.dtype, device=wavelengths.device)
    along = (pair - first) / (last - first)
    keep = 1 - along.clamp(0, 1)
    return stretched * (1 - keep) + kept * keep
