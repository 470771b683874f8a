"""Did you mean: the known word nearest to a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable


def distance(a: str, b: str) -> int:
    """The number of insertions, deletions, replacements and swaps of neighbours that turn one word into the other.

    Optimal string alignment distance (Damerau 1964, with no edit of an edit).
    """
    before: list[int] = []
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` most likely stands for, or None when nothing is near.

    A third of the letters may differ; case does not count; the same parts in another order (`heads_kv`) are near, and
    so is a word that a known one starts with (`hidden_size` for `hidden`) or whose parts it has (`kv_lora_rank` for
    `kv_rank`).
    """
    word = word[:80]
    low = word.lower()
    best: tuple[float, str] | None = None
    for candidate in known:
        other = candidate.lower()
        if low == other:
            score = 0.0
        elif sorted(low.split("_")) == sorted(other.split("_")):
            score = 0.5
        else:
            score = float(distance(low, other))
            if score > max(1, max(len(low), len(other)) // 3):
                shorter, longer = sorted((low, other), key=len)
                if len(shorter) >= 3 and longer.startswith(shorter + "_"):
                    score = 3.0
                elif "_" in other and set(other.split("_")) < set(low.split("_")):
                    score = 4.0
                else:
                    continue
            elif len(low) <= 2 and low[:1] != other[:1]:
                continue
        if best is None or (score, candidate) < best:
            best = (score, candidate)
    return best[1] if best else None
