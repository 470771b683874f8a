"""In which blocks sparse attention and index scores run: plain integers, no torch.

A compiler may import this very file to count what the references execute. Queries go in bands, each beside the keys of
its window, and bands in blocks, so that no intermediate has more than ``LIMIT`` elements: 4 MiB in float32, which
processors keep near and allocators give again without asking the system.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

LIMIT = 1 << 20
GATHERED = 1 << 24
"""As `LIMIT`, where whole blocks of tokens are gathered for every query: 64 MiB in float32."""
DENSE = 2
"""Where there are no more than so many entries for each pick, scoring all is less work than gathering the picked."""


class Block(NamedTuple):
    """Queries ``start`` to ``stop``, in bands of ``rows``, read the first ``entries`` entries, or as many picked ones
    each.
    """

    start: int
    stop: int
    rows: int
    entries: int


class Schedule(NamedTuple):
    """A band reads the ``look`` window rows before its own and these; picked entries are ``gathered`` for each query,
    or looked up among all.
    """

    look: int
    gathered: bool
    blocks: list[Block]


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
) -> Schedule:
    """The blocks of `sparse_attention`.

    ``kept`` rows stand before the new ones; ``past`` is an upper bound of the tokens before this call. A query reads
    all of the ``entries`` that its block may see, or with ``picks``, where entries are many, so many gathered ones.
    """
    columns, gathered = _far(entries, picks)
    rows, bands, look = _bands(batch, heads, dim, new, kept, window, columns, gathered, limit)
    whole = new // rows * rows
    ends = [*range(0, whole, rows * bands), whole, *([new] if whole < new else [])]
    blocks = []
    for start, stop in pairwise(ends):
        seen = columns if gathered else min(columns, (past + stop) // every)
        blocks.append(Block(start, stop, min(rows, stop - start), seen))
    return Schedule(look, gathered, blocks)


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
    rows, bands, look = _bands(batch, heads, dim, new, kept, window, columns, gathered, limit)
    whole = new // rows * rows
    near = new * look + whole * rows + (new - whole) ** 2
    if gathered:
        return near + new * columns
    far = _seen_pairs(past, whole, rows * bands, every, columns)
    return near + far + (new - whole) * min(columns, (past + new) // every)


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


class TwoStage(NamedTuple):
    """The first ``flat`` queries see no more blocks of entries than are kept, and are scored against all they see; of
    the rest, queries ``start`` to ``stop`` are scored against the first so many block keys, then against entries.
    """

    flat: int
    blocks: list[tuple[int, int, int]]


def two_stage_blocks(
    *,
    batch: int,
    heads: int,
    width: int,
    past: int,
    new: int,
    every: int,
    entries: int,
    block: int,
    keep: int,
    limit: int = LIMIT,
) -> TwoStage:
    """The blocks of `two_stage_topk`: of ``block`` entries in a block, ``keep`` blocks are kept for each query."""
    flat = _flat(past, new, every, block, keep)
    rows = _two_stage_rows(batch, heads, width, new - flat, entries // block, block * keep, limit)
    starts = range(flat, new, rows)
    stops = [min(n + rows, new) for n in starts]
    return TwoStage(flat, [(n, m, (past + m) // (every * block)) for n, m in zip(starts, stops, strict=True)])


def two_stage_pairs(
    *,
    batch: int,
    heads: int,
    width: int,
    past: int,
    new: int,
    every: int,
    entries: int,
    block: int,
    keep: int,
    limit: int = LIMIT,
) -> int:
    """Pairs of a query and a key of an entry or block, per row and head, that `two_stage_topk` scores where rows are
    aligned; quick however many there are. A single query is not scored against what it takes anyway.
    """
    flat = _flat(past, new, every, block, keep)
    seen = min(entries, (past + flat) // every)
    pairs = index_pairs(batch=batch, heads=heads, past=past, new=flat, every=every, entries=seen, limit=limit)
    if flat == new:
        return pairs
    if new == 1:
        newest = (entries - 1) // block
        return newest - 1 + (keep - 1) * block + entries - newest * block
    rows = _two_stage_rows(batch, heads, width, new - flat, entries // block, block * keep, limit)
    coarse = _seen_pairs(past + flat, new - flat, rows, every * block, entries // block)
    return pairs + coarse + (new - flat) * block * keep


def divergence_blocks(
    *,
    batch: int,
    heads: int,
    width: int,
    past: int,
    new: int,
    every: int,
    entries: int,
    picks: int | None = None,
    limit: int = LIMIT,
) -> tuple[bool, list[tuple[int, int, int]]]:
    """The blocks of `index_divergence`: whether picked entries are gathered for each query, and queries ``start`` to
    ``stop`` that meet as many, or else the first ``entries``.

    ``heads`` of attention or of the index and ``width`` of an entry or of an index key, whichever is more.
    """
    columns, gathered = _far(entries, picks)
    if not gathered:
        return False, index_blocks(
            batch=batch, heads=heads, past=past, new=new, every=every, entries=entries, limit=limit
        )
    rows = max(1, min(new, limit // (batch * max(heads, width) * columns))) if columns else new
    return True, [(n, min(n + rows, new), columns) for n in range(0, new, rows)]


def divergence_pairs(
    *,
    batch: int,
    heads: int,
    past: int,
    new: int,
    every: int,
    entries: int,
    picks: int | None = None,
    limit: int = LIMIT,
) -> int:
    """Query-entry pairs, per row and head, of the blocks of `divergence_blocks`; quick however many there are."""
    columns, gathered = _far(entries, picks)
    if gathered:
        return new * columns
    return index_pairs(batch=batch, heads=heads, past=past, new=new, every=every, entries=entries, limit=limit)


def picked_blocks(
    *, batch: int, heads: int, groups: int, width: int, new: int, columns: int, limit: int = GATHERED
) -> list[tuple[int, int]]:
    """The blocks of `block_attention`: queries ``start`` to ``stop``, for each of which every one of ``groups`` gathers
    ``columns`` tokens of ``width`` channels at most.
    """
    rows = max(1, min(new, limit // max(1, batch * columns * max(heads, groups * width))))
    return [(start, min(start + rows, new)) for start in range(0, new, rows)]


def latent_blocks(
    *,
    batch: int,
    heads: int,
    width: int,
    past: int,
    new: int,
    entries: int,
    picks: int | None = None,
    limit: int = LIMIT,
) -> tuple[bool, list[tuple[int, int, int]]]:
    """The blocks of `sparse_latent_attend`: whether picked latents are gathered for each query, and queries ``start``
    to ``stop`` that meet as many, or else the first ``entries``; ``width`` is that of an entry.
    """
    columns, gathered = _far(entries, picks)
    rows = _latent_rows(batch, heads, width, new, columns, gathered, limit)
    starts = range(0, new, rows)
    return gathered, [
        (n, min(n + rows, new), columns if gathered else min(columns, past + min(n + rows, new))) for n in starts
    ]


def latent_pairs(
    *,
    batch: int,
    heads: int,
    width: int,
    past: int,
    new: int,
    entries: int,
    picks: int | None = None,
    limit: int = LIMIT,
) -> int:
    """Query-entry pairs, per row and head, of the blocks of `latent_blocks`; quick however many there are."""
    columns, gathered = _far(entries, picks)
    if gathered:
        return new * columns
    return _seen_pairs(past, new, _latent_rows(batch, heads, width, new, columns, gathered, limit), 1, columns)


def _latent_rows(batch: int, heads: int, width: int, new: int, columns: int, gathered: bool, limit: int) -> int:
    """Queries of a block of attention over latents."""
    each = max(heads * max(columns, width), columns * width if gathered else 0)
    return max(1, min(new, limit // max(1, batch * each)))


def _far(entries: int, picks: int | None) -> tuple[int, bool]:
    """Entries that a query may read, and whether they are gathered for each."""
    return (entries, False) if picks is None or entries <= DENSE * picks else (picks, True)


def _bands(
    batch: int, heads: int, dim: int, new: int, kept: int, window: int, columns: int, gathered: bool, limit: int
) -> tuple[int, int, int]:
    """Queries of a band, bands of a block, and the rows before its own that a band reads."""
    wide = columns * dim if gathered else 0

    def size(rows: int) -> int:
        return batch * rows * max(heads * (rows + window + columns), wide)

    rows = max(1, min(new, max(32, window // 4)))  # a quarter of the window wastes a quarter of the band
    while rows > 1 and size(rows) > limit:
        rows //= 2
    bands = max(1, min(new // rows, limit // size(rows)))
    # The last band begins so many rows after the first of `kept`.
    return rows, bands, min(window - 1, kept + (-(-new // rows) - 1) * rows)


def _index_rows(batch: int, heads: int, new: int, entries: int, limit: int) -> int:
    """Queries of a block of index scores."""
    return max(1, min(new, limit // max(1, batch * heads * entries)))


def _flat(past: int, new: int, every: int, block: int, keep: int) -> int:
    """Queries that see no more than ``keep`` blocks, the last of them perhaps unfinished."""
    return max(0, min(new, (keep * block + 1) * every - 1 - past))


def _two_stage_rows(batch: int, heads: int, width: int, new: int, blocks: int, columns: int, limit: int) -> int:
    """Queries of a block that scores block keys, then so many gathered columns for each query."""
    return max(1, min(new, limit // (batch * max(heads * blocks, max(heads, width) * columns))))


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
