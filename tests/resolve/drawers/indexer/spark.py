"""A toy indexer, for tests of resolve."""

from __future__ import annotations

from typing import Literal

from archc.schema import Indexer, field


class Spark(Indexer):
    """Scores entries and keeps the best."""

    topk: int = field("entries kept", gt=0)
    heads: int = field("index heads", default=4, gt=0)
    score: Literal["relu", "softmax"] = field("how scores are squashed", default="relu")
