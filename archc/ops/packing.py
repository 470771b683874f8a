"""What caches of a narrow layout hold in the place of numbers: rows of bytes, as `kernels.packed_rows` writes them."""

from __future__ import annotations

import ast
from typing import ClassVar

from archc.ops.base import expr
from archc.record import dataclass


def _groups(channels: int, size: int) -> int:
    """Groups of a size, the last of them perhaps smaller."""
    return -(-channels // size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Keys:
    """FP8 with a scale for each 64 channels, but the last ``plain`` in bfloat16, padded to a multiple of 8 bytes."""

    plain: int
    layout: ClassVar[str] = "v4_fp8"

    def parts(self, channels: int) -> dict[str, int]:
        """Bytes of a row by what they hold."""
        few = channels - self.plain
        parts = {"fp8": few, "bf16": 2 * self.plain, "scales": _groups(few, 64)}
        return parts | {"padding": -sum(parts.values()) % 8}

    def code(self) -> ast.expr:
        """Its declaration in a package."""
        return expr("Fp8Keys(plain=plain)", plain=self.plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp4Keys:
    """FP4, two channels to a byte, with a scale for each 32 channels."""

    layout: ClassVar[str] = "v4_fp8"

    def parts(self, channels: int) -> dict[str, int]:
        """Bytes of a row by what they hold."""
        return {"fp4": _groups(channels, 2), "scales": _groups(channels, 32)}

    def code(self) -> ast.expr:
        """Its declaration in a package."""
        return expr("Fp4Keys()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Tiles:
    """FP8 with a float32 scale for each 128 channels, but the last ``plain`` in bfloat16."""

    plain: int = 0
    layout: ClassVar[str] = "mla_fp8"

    def parts(self, channels: int) -> dict[str, int]:
        """Bytes of a row by what they hold."""
        few = channels - self.plain
        parts = {"fp8": few, "scales": 4 * _groups(few, 128)}
        return parts | {"bf16": 2 * self.plain} if self.plain else parts

    def code(self) -> ast.expr:
        """Its declaration in a package."""
        return expr("Fp8Tiles(plain=plain)", plain=self.plain or None)


Packing = Fp8Keys | Fp4Keys | Fp8Tiles

__all__ = ["Fp4Keys", "Fp8Keys", "Fp8Tiles", "Packing"]
