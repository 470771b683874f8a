"""The fp32 cache."""

from __future__ import annotations

from archc.schema import Cache


class Fp32(Cache):
    """Stores what it is given as float32."""

    element = 4
