"""Keys in few bits, as DeepSeek-V4 and DeepSeek-V3.2 cache them (arXiv:2606.19348, section 2.3; FlashMLA's README): FP8
or FP4 with a power of two for each group of channels.

A row of channels becomes a row of bytes. The scale of a group is the smallest power of two with which its largest
number fits the format, stored as its E8M0 exponent or as a float32; numbers round to the nearest, ties to even (OCP
Microscaling Formats 1.0). Reading gives exactly the numbers that were stored, in bfloat16 as in float32; bytes that are
all zero read as zeros. A group with a number that is not finite reads as NaN throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .state import Packed

ALIGNED = 8
"""A row of `Fp8Keys` is padded to a multiple of so many bytes."""


@dataclass(frozen=True, kw_only=True)
class _Format:
    """Numbers of a few bits, in groups that share a scale."""

    group: int  # channels of a group
    exponent: int  # the largest number is 2 ** exponent times the one whose bits as float32 have the mantissa
    mantissa: int
    least: float  # what the largest number of a group counts as where it is smaller

    def count(self, channels: int) -> int:
        """The groups of so many channels."""
        return -(-channels // self.group)

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., C] divided by the scales of its groups, zeros after its end [..., G, group]; and the biased exponents
        of those scales [..., G], uint8.
        """
        count = self.count(x.shape[-1])
        groups = F.pad(x.float(), (0, count * self.group - x.shape[-1])).unflatten(-1, (count, self.group))
        bits = groups.abs().amax(-1).clamp(min=self.least).view(torch.int32)
        scale = (bits >> 23) - self.exponent + ((bits & 0x7FFFFF) > self.mantissa)
        inverse = (254 - scale << 23).view(torch.float32)
        finite = bits < 0x7F800000
        return groups * inverse[..., None], torch.where(finite, scale, 255).byte()

    def times(self, groups: Tensor, scales: Tensor) -> Tensor:
        """Numbers [..., C] times the scales [..., G] of their groups, the inverse of `scaled`."""
        channels, count = groups.shape[-1], scales.shape[-1]
        groups = F.pad(groups, (0, short)) if (short := count * self.group - channels) else groups
        scale = scales if scales.is_floating_point() else _power(scales)
        return groups.unflatten(-1, (count, self.group)).mul_(scale[..., None]).flatten(-2)[..., :channels]


E4M3 = _Format(group=64, exponent=8, mantissa=0x600000, least=1e-4)  # up to 448 = 1.75 * 2 ** 8
TILES = replace(E4M3, group=128)
E2M1 = _Format(group=32, exponent=2, mantissa=0x400000, least=6 * 2.0**-126)  # up to 6 = 1.5 * 2 ** 2


@dataclass(frozen=True, kw_only=True)
class Fp8Keys:
    """FP8 (E4M3) in groups of 64, but the last `plain` channels, those with positions, in bfloat16.

    A row is the FP8 numbers, the bfloat16 ones, the scales, and zeros up to a multiple of 8 bytes: 512 channels, 64 of
    them plain, take 448 + 128 + 7 + 1 = 584.
    """

    plain: int
    layout: ClassVar[str] = "v4_fp8"

    def bytes(self, channels: int) -> int:
        """Bytes of a row."""
        return -(-sum(self._parts(channels)) // ALIGNED) * ALIGNED

    def encode(self, x: Tensor) -> Tensor:
        """Rows [..., channels] as bytes [..., bytes]."""
        few = x.shape[-1] - self.plain
        groups, scales = E4M3.scaled(x[..., :few])
        parts = [groups.to(torch.float8_e4m3fn).view(torch.uint8).flatten(-2)[..., :few], scales]
        if self.plain:
            plain = x[..., few:].to(torch.bfloat16, copy=True, memory_format=torch.contiguous_format)
            parts.insert(1, plain.view(torch.uint8))
        row = torch.cat(parts, -1)
        return F.pad(row, (0, self.bytes(x.shape[-1]) - row.shape[-1]))

    def decode(self, rows: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
        """The channels [..., channels] of rows of bytes [..., bytes]."""
        parts = self._parts(channels)
        numbers, plain, scales = rows[..., : sum(parts)].split(parts, -1)
        codes = torch.arange(256, dtype=torch.uint8, device=rows.device)
        wide = E4M3.times(_looked_up(numbers, codes.view(torch.float8_e4m3fn).float()), scales)
        if not self.plain:
            return wide.to(dtype)
        return torch.cat([wide.to(dtype), _aligned(plain).view(torch.bfloat16).to(dtype)], -1)

    def _parts(self, channels: int) -> tuple[int, int, int]:
        """Bytes of the FP8 numbers, the bfloat16 ones and the scales."""
        few = channels - self.plain
        return few, 2 * self.plain, E4M3.count(few)


@dataclass(frozen=True, kw_only=True)
class Fp4Keys:
    """FP4 (E2M1) in groups of 32.

    A row is the numbers, two to a byte with the first in the low half, then the scales: 128 channels take 64 + 4 bytes.
    """

    layout: ClassVar[str] = "v4_fp8"

    def bytes(self, channels: int) -> int:
        """Bytes of a row."""
        return _pairs(channels) + E2M1.count(channels)

    def encode(self, x: Tensor) -> Tensor:
        """Rows [..., channels] as bytes [..., bytes]."""
        groups, scales = E2M1.scaled(x)
        size = groups.abs()
        # A code counts the middles between numbers that lie below; a middle itself goes to the even code.
        codes = torch.signbit(groups).byte() << 3
        for middle in (0.25, 1.25, 2.5, 5.0):
            codes += size > middle
        for middle in (0.75, 1.75, 3.5):
            codes += size >= middle
        pairs = codes.flatten(-2)[..., : 2 * _pairs(x.shape[-1])].unflatten(-1, (-1, 2))
        return torch.cat([pairs[..., 0] | pairs[..., 1] << 4, scales], -1)

    def decode(self, rows: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
        """The channels [..., channels] of rows of bytes [..., bytes]."""
        numbers, scales = rows.split((_pairs(channels), E2M1.count(channels)), -1)
        byte = torch.arange(256, dtype=torch.uint8, device=rows.device)
        codes = torch.stack([byte & 15, byte >> 4], -1)
        # The bits of a number are those of E4M3 for one 64 times smaller.
        values = 64 * ((codes & 8) << 4 | (codes & 7) << 2).view(torch.float8_e4m3fn).float()
        pairs = _looked_up(numbers, values.view(torch.int64).flatten())  # both of a byte in one go
        return E2M1.times(pairs.view(torch.float32)[..., :channels], scales).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Fp8Tiles:
    """FP8 (E4M3) in tiles of 128 with a float32 scale each, but the last `plain` channels, those with positions, in
    bfloat16.

    A row is the FP8 numbers, the scales, the bfloat16 numbers: a latent of 512 channels and 64 plain ones take 512 +
    16 + 128 = 656 bytes, an index key of 128 channels 128 + 4 = 132. Scales that are written are powers of two, as in
    DeepSeek-V3.2's inference code; any are read.
    """

    plain: int = 0
    layout: ClassVar[str] = "mla_fp8"

    def bytes(self, channels: int) -> int:
        """Bytes of a row."""
        return sum(self._parts(channels))

    def encode(self, x: Tensor) -> Tensor:
        """Rows [..., channels] as bytes [..., bytes]."""
        few = x.shape[-1] - self.plain
        groups, scales = TILES.scaled(x[..., :few])
        parts = [groups.to(torch.float8_e4m3fn).view(torch.uint8).flatten(-2)[..., :few]]
        if few:
            parts.append(_power(scales).view(torch.uint8))
        if self.plain:
            plain = x[..., few:].to(torch.bfloat16, copy=True, memory_format=torch.contiguous_format)
            parts.append(plain.view(torch.uint8))
        return torch.cat(parts, -1)

    def decode(self, rows: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
        """The channels [..., channels] of rows of bytes [..., bytes]."""
        numbers, scales, plain = rows.split(self._parts(channels), -1)
        codes = torch.arange(256, dtype=torch.uint8, device=rows.device)
        wide = _looked_up(numbers, codes.view(torch.float8_e4m3fn).float())
        if channels > self.plain:
            wide = TILES.times(wide, _aligned(scales).view(torch.float32))
        if not self.plain:
            return wide.to(dtype)
        return torch.cat([wide.to(dtype), _aligned(plain).view(torch.bfloat16).to(dtype)], -1)

    def _parts(self, channels: int) -> tuple[int, int, int]:
        """Bytes of the FP8 numbers, the scales and the bfloat16 numbers."""
        few = channels - self.plain
        return few, 4 * TILES.count(few), 2 * self.plain


def read_picked(entries: Packed, picks: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The entries [B, E, D] that picks [B, S, K] mean, and the picks (-1 for none) as places among those.

    Where picks are as many as entries or none are given, all entries are decoded, and the picks stay.
    """
    if picks is None or picks[0].numel() >= entries.shape[1]:
        return entries.decode(), picks
    places = torch.arange(picks[0].numel(), device=picks.device).view(picks.shape[1:])
    return entries.at(picks.clamp(min=0).flatten(1)).decode(), torch.where(picks < 0, -1, places)


def _power(codes: Tensor) -> Tensor:
    """The scales that E8M0 codes [...] mean, float32."""
    code = codes.int()
    # The first power of two is subnormal in float32, the last code is NaN: both have one bit more.
    return (code << 23 | ((code == 0) | (code == 255)).int() << 22).view(torch.float32)


def _aligned(part: Tensor) -> Tensor:
    """A part of rows of bytes, alone, so that it begins where wider numbers may."""
    return part.clone(memory_format=torch.contiguous_format)


def _pairs(channels: int) -> int:
    """Bytes of FP4 numbers."""
    return -(-channels // 2)


def _looked_up(numbers: Tensor, values: Tensor) -> Tensor:
    """values[numbers] for bytes [...] and 256 values. Much quicker on a CPU than converting FP8."""
    return values.index_select(0, numbers.flatten().int()).view(numbers.shape)
