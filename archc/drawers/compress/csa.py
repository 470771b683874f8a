"""Compressed sparse attention's compressor."""

from __future__ import annotations

from typing import Any

from archc.drawers.compress._pool import Pool
from archc.schema import Indexer, field


class Csa(Pool):
    """One entry for every few tokens, and an indexer to pick among them (DeepSeek-V4, arXiv:2606.19348)."""

    source = "section 2.3.1"

    overlap: bool = field("a group also pools the tokens of the group before", default=True)
    indexer: Indexer | None = field("picks the entries that a token attends to; all when left out", default=None)

    def overlaps(self) -> bool:
        return self.overlap

    def picker(self) -> Indexer | None:
        return self.indexer

    def tiny(self) -> dict[str, Any]:
        return {"ratio": min(self.ratio, 4)}
