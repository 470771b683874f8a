"""Heavily compressed attention's compressor."""

from __future__ import annotations

from typing import Any

from archc.drawers.compress._pool import Pool


class Hca(Pool):
    """One entry for every group of tokens, pooled by a learned softmax; a token attends to all that it sees
    (DeepSeek-V4, arXiv:2606.19348, section 2.3.2).
    """

    def tiny(self) -> dict[str, Any]:
        return {"ratio": min(self.ratio, 8)}
