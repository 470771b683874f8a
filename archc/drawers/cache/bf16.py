"""The bf16 cache."""

from __future__ import annotations

from archc.schema import Cache


class Bf16(Cache):
    """Stores what it is given as bfloat16, or the module's dtype where that is wider."""

    element = 2
