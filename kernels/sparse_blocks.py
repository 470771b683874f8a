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
    columns, gathered = _far(entries, picks)
    rows = _attention_rows(batch, heads, dim, new, window, columns, gathered, limit)
    blocks = []
    for start in range(0, new, rows):
        stop = min(start + rows, new)
        seen = columns if gathered else min(columns, (past + stop) // every)
        blocks.append(Block(start, stop, max(0, kept + start - window + 1), kept + stop, seen))
    return blocks


def attention_pairs(
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
) -> int:
    """Query-key pairs, per row and head, that the blocks of `attention_blocks` score; quick however many there
    are.
    """
    columns, gathered = _far(entries, picks)
    rows = _attention_rows(batch, heads, dim, new, window, columns, gathered, limit)
    whole, rest = divmod(new, rows)
    # A band has rows + window - 1 keys, or all there are.
    short = min(whole, max(0, -(-(window - 1 - kept) // rows)))
    near = rows * (sum(kept + (k + 1) * rows for k in range(short)) + (whole - short) * (rows + window - 1))
    near += rest * min(kept + new, rest + window - 1)
    far = new * columns if gathered else _seen_pairs(past, new, rows, every, columns)
    return near + far


def index_blocks(
    *, batch: int, heads: int, past: int, new: int, every: int, entries: int, limit: int = LIMIT
) -> list[tuple[int, int, int]]:
    """The blocks of `index_topk`: queries ``start`` to ``stop`` are scored against the first ``entries`` keys."""
    rows = _index_rows(batch, heads, new, entries, limit)
    starts = range(0, new, rows)
    return [(n, min(n + rows, new), min(entries, (past + min(n + rows, new)) // every)) for n in starts]


def index_pairs(*, batch: int, heads: int, past: int, new: int, every: int, entries: int, limit: int = LIMIT) -> int:
    """Query-key pairs, per row and head, that the blocks of `index_blocks` score; quick however many there are."""
    return _seen_pairs(past, new, _index_rows(batch, heads, new, entries, limit), every, entries)


def _far(entries: int, picks: int | None) -> tuple[int, bool]:
    """Entries that a query may read, and whether they are gathered for each."""
    return (entries, False) if picks is None or entries == 0 else (picks, True)


def _attention_rows(
    batch: int, heads: int, dim: int, new: int, window: int, columns: int, gathered: bool, limit: int
) -> int:
    """Queries of a block."""
    rows = max(1, min(new, max(32, window // 4)))  # a quarter of the window wastes a quarter of the band
    wide = columns * dim if gathered else 0
    while rows > 1 and batch * rows * max(heads * (rows + window + columns), wide) > limit:
        rows //= 2
    return rows


def _index_rows(batch: int, heads: int, new: int, entries: int, limit: int) -> int:
    """Queries of a block of index scores."""
    return max(1, min(new, limit // max(1, batch * heads * entries)))


def _seen_pairs(past: int, new: int, rows: int, every: int, entries: int) -> int:
    """The sum over blocks of ``rows`` queries of queries times the entries that the last of them sees."""
    whole, rest = divmod(new, rows)
    growing = min(whole, max(0, -(-(entries * every - past) // rows) - 1))  # blocks that do not see all entries
    seen = _floor_sum(growing, every, rows, past + rows) + (whole - growing) * entries
    return rows * seen + rest * min(entries, (past + new) // every)


def _floor_sum(count: int, divisor: int, step: int, first: int) -> int:
    """The sum of (first + i * step) // divisor for i from 0 to count - 1, as Euclid divides: no loop over i."""
    total = 0
    while count > 0:
        total += (step // divisor) * count * (count - 1) // 2 + (first // divisor) * count
        step, first = step % divisor, first % divisor
        last = step * count + first
        if last < divisor:
            break
        count, first, step, divisor = last // divisor, last % divisor, divisor, step
    return total
