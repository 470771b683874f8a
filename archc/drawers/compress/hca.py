"""Heavily compressed attention's compressor."""

from __future__ import annotations

from typing import Any

from archc.drawers.compress._pool import Pool


class Hca(Pool):
    """One entry for every group of many tokens, all of them attended to (DeepSeek-V4, arXiv:2606.19348)."""

    source = "section 2.3.2"

    def tiny(self) -> dict[str, Any]:
        return {"ratio": min(self.ratio, 8)}
