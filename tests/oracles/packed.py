"""How DeepSeek-V4 and V3.2 cache keys, number by number in float64 and exact integers, from the definitions of the
formats.

E4M3, E2M1 and E8M0: OCP Microscaling Formats 1.0, section 5.3. Which channels are in which: DeepSeek-V4's released
inference code (groups of 64 and 32, scales rounded up to powers of two); FlashMLA's README for latents (tiles of 128,
their float32 scales before the bfloat16 channels).
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction


def e4m3(code: int) -> float:
    """The number of a code of 8 bits: sign, 4 bits of exponent (bias 7), 3 of mantissa; NaN for the last code."""
    exponent, mantissa = code >> 3 & 15, code & 7
    if (exponent, mantissa) == (15, 7):
        return math.nan
    size = (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0**-9
    return -size if code & 0x80 else size


def e2m1(code: int) -> float:
    """The number of a code of 4 bits: sign, 2 bits of exponent (bias 1), 1 of mantissa."""
    exponent, mantissa = code >> 1 & 3, code & 1
    size = (2 + mantissa) * 2.0 ** (exponent - 2) if exponent else mantissa * 0.5
    return -size if code & 8 else size


FP8 = [e4m3(code) for code in range(127)]
FP4 = [e2m1(code) for code in range(8)]


def nearest(x: Fraction, values: list[float]) -> int:
    """The code of the value nearest to x >= 0, the even one of two."""
    gaps = [abs(Fraction(value) - x) for value in values]
    least = min(gaps)
    return min((code for code, gap in enumerate(gaps) if gap == least), key=lambda code: code % 2)


def exponent_of(group: list[float], values: list[float], least: float) -> int:
    """The smallest k with largest value * 2 ** k >= the group's largest number, which counts as ``least`` at least."""
    top = Fraction(max(least, *map(abs, group)))
    k = -200
    while Fraction(values[-1]) * Fraction(2) ** k < top:
        k += 1
    return k


def coded(group: list[float], values: list[float], sign: int, least: float) -> tuple[list[int], int]:
    """The codes of a group of numbers, and the byte of its scale."""
    k = exponent_of(group, values, least)
    codes = [nearest(abs(Fraction(x)) / Fraction(2) ** k, values) for x in group]
    return [code | (sign if math.copysign(1, x) < 0 else 0) for code, x in zip(codes, group, strict=True)], k + 127


def bfloat16(x: float) -> int:
    """The 16 bits of the bfloat16 nearest to a finite float32 number, of two the even one (no overflow)."""
    sign = 0x8000 if math.copysign(1, x) < 0 else 0
    size = abs(Fraction(x))
    if size == 0:
        return sign
    exponent = max(math.frexp(abs(x))[1] - 1, -126)
    steps, rest = divmod(size / Fraction(2) ** (exponent - 7), 1)  # of 8 bits, the first of them 1 unless subnormal
    steps += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and steps % 2)
    return sign + ((exponent + 126) << 7) + int(steps)  # a mantissa that is full carries into the exponent


def fp8_row(row: list[float], plain: int) -> list[int]:
    """The bytes of a key whose last ``plain`` channels stay bfloat16."""
    few, wide = row[: len(row) - plain], row[len(row) - plain :]
    groups = [coded(few[i : i + 64], FP8, 0x80, 1e-4) for i in range(0, len(few), 64)]
    out = [code for codes, _ in groups for code in codes]
    for x in wide:
        out += bfloat16(x).to_bytes(2, "little")
    out += [scale for _, scale in groups]
    return out + [0] * (-len(out) % 8)


def fp4_row(row: list[float]) -> list[int]:
    """The bytes of an index key."""
    groups = [coded(row[i : i + 32], FP4, 8, 6 * 2.0**-126) for i in range(0, len(row), 32)]
    codes = [code for codes, _ in groups for code in codes] + [0] * (len(row) % 2)
    return [low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True)] + [s for _, s in groups]


def tile_row(row: list[float], plain: int) -> list[int]:
    """The bytes of a latent whose last ``plain`` channels stay bfloat16."""
    few, wide = row[: len(row) - plain], row[len(row) - plain :]
    groups = [coded(few[i : i + 128], FP8, 0x80, 1e-4) for i in range(0, len(few), 128)]
    out = [code for codes, _ in groups for code in codes]
    for _, scale in groups:
        out += struct.pack("<f", 2.0 ** (scale - 127))
    for x in wide:
        out += bfloat16(x).to_bytes(2, "little")
    return out


def tile_channels(row: list[int], channels: int, plain: int) -> list[float]:
    """The latent that bytes say."""
    few = channels - plain
    tiles = -(-few // 128)
    scales = struct.unpack(f"<{tiles}f", bytes(row[few : few + 4 * tiles]))
    return [e4m3(row[i]) * scales[i // 128] for i in range(few)] + _bfloat16s(row[few + 4 * tiles :])


def fp8_channels(row: list[int], channels: int, plain: int) -> list[float]:
    """The key that bytes say."""
    few = channels - plain
    scales = row[few + 2 * plain :]
    out = [e4m3(row[i]) * 2.0 ** (scales[i // 64] - 127) for i in range(few)]
    return out + _bfloat16s(row[few : few + 2 * plain])


def _bfloat16s(row: list[int]) -> list[float]:
    """Numbers of two bytes each."""
    out = []
    for low, high in zip(row[::2], row[1::2], strict=True):
        bits = low | high << 8
        exponent, mantissa = bits >> 7 & 255, bits & 127
        size = (128 + mantissa) * 2.0 ** (exponent - 134) if exponent else mantissa * 2.0**-133
        out.append(-size if bits & 0x8000 else size)
    return out


def fp4_channels(row: list[int], channels: int) -> list[float]:
    """The index key that bytes say."""
    scales = row[(channels + 1) // 2 :]
    codes = [row[i // 2] >> (4 * (i % 2)) & 15 for i in range(channels)]
    return [e2m1(code) * 2.0 ** (scales[i // 32] - 127) for i, code in enumerate(codes)]
