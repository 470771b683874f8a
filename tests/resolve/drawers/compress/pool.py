"""A toy compressor with an indexer, for tests of resolve."""

from __future__ import annotations

from archc.schema import Compress, Indexer, Norm, field


class Pool(Compress):
    """One entry of several tokens."""

    ratio: int = field("tokens of an entry", unit="tokens", gt=0)
    heads: int = field("heads of the attention around it", inherit="heads", gt=0)
    head_dim: int = field("width of an entry", unit="channels", inherit="head_dim", gt=0)
    norm: Norm = field("norm of an entry", inherit="norm")
    indexer: Indexer | None = field("chooses among entries", default=None)
