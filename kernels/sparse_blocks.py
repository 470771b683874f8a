"""In which blocks sparse attention and index scores run: plain integers, no torch.

A compiler may import this very file to count what the references execute. Queries go in blocks, so that no
intermediate has more than ``LIMIT`` elements (64 MiB in float32); a window is a band of keys beside its block of
queries.
"""

from __future__ import annotations

from typing import NamedTuple

LIMIT = 1 << 24


class Block(NamedTuple):
    """Queries ``start`` to ``stop`` read window rows ``low`` to ``high`` and the first ``entries`` entries (or
    their picks).
    """

    start: int
    stop: int
    low: int
    high: int
    entries: int


def attention_blocks(
    *,
    batch: int,
    heads: int,
    dim: int,
    past: int,
    new: int,
    kept: int,
    window: int,
    every: int = 1,
    entries: int = 0,
    picks: int | None = None,
    limit: int = LIMIT,
) -> list[Block]:
    """The blocks of `sparse_attention`.

    ``kept`` rows stand before the new ones; ``past`` is an upper bound of the tokens before this call; with
    ``picks``, each query reads that many gathered entries, else all of the ``entries`` that its block may see.
    """
    picks = 0 if entries == 0 else picks
    columns = entries if picks is None else picks
    rows = min(new, max(32, window // 4))  # a quarter of the window wastes a quarter of the band
    while rows > 1 and batch * rows * max(heads * (rows + window + columns), (picks or 0) * dim) > limit:
        rows //= 2
    blocks = []
    for start in range(0, new, max(rows, 1)):
        stop = min(start + rows, new)
        seen = min(entries, (past + stop) // every) if picks is None else picks
        blocks.append(Block(start, stop, max(0, kept + start - window + 1), kept + stop, seen))
    return blocks


def attention_pairs(blocks: list[Block]) -> int:
    """Query-key pairs that the blocks score, per row and head."""
    return sum((b.stop - b.start) * (b.high - b.low + b.entries) for b in blocks)


def index_blocks(
    *, batch: int, heads: int, past: int, new: int, every: int, entries: int, limit: int = LIMIT
) -> list[tuple[int, int, int]]:
    """The blocks of `index_topk`: queries ``start`` to ``stop`` are scored against the first ``entries`` keys."""
    rows = max(1, min(new, limit // max(1, batch * heads * entries)))
    return [
        (start, min(start + rows, new), min(entries, (past + min(start + rows, new)) // every))
        for start in range(0, new, rows)
    ]


def index_pairs(blocks: list[tuple[int, int, int]]) -> int:
    """Query-key pairs that the blocks score, per row and head."""
    return sum((stop - start) * entries for start, stop, entries in blocks)
