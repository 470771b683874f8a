"""Which queries meet which keys, block by block: plain arithmetic, shared by kernels and whoever counts their work.

Attention is never run over an S x T square that does not fit: queries are cut into blocks whose mask (or scores, where
they are stored) stays under ``LIMIT`` elements, and each block sees only the keys that causality and the window leave
it. Keys and values expanded from a latent are made for so many heads at a time that they stay under it too.
"""

from __future__ import annotations

from math import isqrt

LIMIT = 1 << 24
"""Elements of the largest temporary of a block: 64 MiB of float32."""


def query_blocks(
    *,
    batch: int,
    heads: int,
    new: int,
    keys: int,
    window: int | None = None,
    materialise: bool = False,
    ragged: bool = False,
    limit: int = LIMIT,
) -> list[tuple[int, int, int, int]]:
    """Blocks (query start, query stop, key start, key stop) that cover what `new` queries see of `keys` keys.

    The queries are the last `new` of the `keys` tokens. `window`: how many tokens a query sees, itself included.
    `materialise`: scores of all `heads` are stored (see `stores_scores`), not only a mask.
    `ragged`: rows are packed or of unequal length, so that even plain causal attention needs a mask.
    """
    rows = _rows(batch, heads, new, keys, window, materialise, ragged, limit)
    past = keys - new
    blocks = []
    for start in range(0, new, rows):
        stop = min(start + rows, new)
        blocks.append((start, stop, 0 if window is None else max(0, past + start - window + 1), past + stop))
    return blocks


def scored_pairs(
    *,
    batch: int,
    heads: int,
    new: int,
    keys: int,
    window: int | None = None,
    materialise: bool = False,
    ragged: bool = False,
    limit: int = LIMIT,
) -> int:
    """Query-key pairs (per batch row and head) in the blocks of `query_blocks`, without listing them.

    The two matrix products of attention run 2 * batch * heads * pairs * (key width + value width) FLOPs.
    """
    rows = _rows(batch, heads, new, keys, window, materialise, ragged, limit)
    past = keys - new
    full, rest = divmod(new, rows)
    pairs = rows * (full * past + rows * full * (full + 1) // 2) + rest * keys
    if window is not None:
        # Block i starts at key past + i * rows - window + 1, from the first block for which that is not negative.
        shift = past - window + 1
        first = max(0, -(shift // rows))
        count = max(0, full - first)
        pairs -= rows * (count * shift + rows * (first + full - 1) * count // 2)
        pairs -= rest * max(0, shift + full * rows)
    return pairs


def causal(*, new: int, keys: int, window: int | None = None) -> bool:
    """Whether plain causal attention over `keys` keys shows every query all it may see."""
    return new == keys and (window is None or window >= new)


def stores_scores(*, sinks: bool, new: int, heads: int, groups: int, width: int, value_width: int) -> bool:
    """Whether attention stores its scores instead of running fused.

    Fused attention knows no sinks, and wants values as wide as keys: where they differ the narrower are padded, unless
    the scores of the `new` queries take less room than the copy.
    """
    return sinks or (width != value_width and new * heads < groups * max(width, value_width))


def absorbs(*, past: int, new: int, most: int | None) -> bool:
    """Whether attention over latents runs in latent space: at most `most` queries (None: any) after cached tokens."""
    return past > 0 and (most is None or new <= most)


def expanded_heads(*, batch: int, heads: int, keys: int, width: int, limit: int = LIMIT) -> int:
    """Heads whose keys and values, `width` channels of each at most, are expanded from latents at a time."""
    return max(1, min(heads, limit // max(1, batch * keys * width)))


def _rows(
    batch: int, heads: int, new: int, keys: int, window: int | None, materialise: bool, ragged: bool, limit: int
) -> int:
    """The number of queries of a block."""
    if not (materialise or ragged) and causal(new=new, keys=keys, window=window):
        return max(new, 1)  # no mask and no stored scores: nothing to bound
    budget = limit // (batch * heads if materialise else batch)
    if window is None or window >= keys:
        return max(1, min(new, budget // max(keys, 1)))
    # A block of r queries sees r + window - 1 keys: the largest r with r * (r + window - 1) <= budget.
    largest = (isqrt((window - 1) ** 2 + 4 * budget) - (window - 1)) // 2
    return max(1, min(new, max(window, 128), largest))
