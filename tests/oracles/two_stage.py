"""An index search in two stages, for one token: blocks of entries first, then entries of the best blocks.

HISA (arXiv:2603.28458, section 3): a block is scored by the mean of its keys; the first block and the last are always
taken. The last one may be unfinished.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.oracles.rows import Array, best

Score = Callable[[Array], float]


def parts(entries: int, block: int) -> list[range]:
    """Ids of the entries of each block, the last of them perhaps fewer."""
    return [range(i, min(i + block, entries)) for i in range(0, entries, block)]


def worth(keys: list[Array], score: Score, block: int) -> list[float]:
    """What each block is chosen by."""
    blocks = parts(len(keys), block)
    always = {0, len(blocks) - 1}
    means = [np.mean([keys[e] for e in ids], axis=0) for ids in blocks]
    return [math.inf if i in always else score(mean) for i, mean in enumerate(means)]


def picks(keys: list[Array], score: Score, *, block: int, blocks: int, topk: int) -> list[int]:
    """Ids of the entries picked among those seen, best first."""
    kept = sorted(best(worth(keys, score, block), blocks)) if keys else []
    ids = [e for i in kept for e in parts(len(keys), block)[i]]
    return [ids[i] for i in best([score(keys[e]) for e in ids], topk)]


def margin(keys: list[Array], score: Score, *, block: int, blocks: int, topk: int) -> float:
    """The smaller gap between what is taken last and what is left out first, in either stage."""
    gaps = [math.inf]
    values = sorted(worth(keys, score, block), reverse=True)
    if len(values) > blocks:
        gaps.append(values[blocks - 1] - values[blocks])
    kept = best(worth(keys, score, block), blocks) if keys else []
    inside = sorted((score(keys[e]) for i in kept for e in parts(len(keys), block)[i]), reverse=True)
    if len(inside) > topk:
        gaps.append(inside[topk - 1] - inside[topk])
    return min(gaps)
