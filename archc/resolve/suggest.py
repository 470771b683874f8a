"""Did-you-mean: the nearest of the names that would have been right."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``name`` was most likely meant to be, None when none is near.

    Nearness is the number of typing slips (a letter too many, too few, wrong, or two swapped): at most one in three letters. Equal up to case or
    underscores counts as one slip; of equally near candidates the first in alphabetical order wins.
    """
    limit = max(1, len(name) // 3)
    best: tuple[int, str] | None = None
    for candidate in sorted(set(candidates)):
        if candidate == name:
            continue
        if _plain(candidate) == _plain(name):
            slips = 1
        elif abs(len(candidate) - len(name)) > limit:
            continue
        else:
            slips = _slips(name, candidate, limit)
        if slips <= limit and slips < max(len(name), len(candidate)) and (best is None or slips < best[0]):
            best = (slips, candidate)
    return best[1] if best else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """The `help:` text for a misspelt name; None when no candidate is near."""
    found = nearest(name, candidates)
    return f"did you mean `{found}`?" if found else None


def listed(names: Iterable[str], *, word: str = "and", limit: int = 12) -> str:
    """Names in backquotes as a person lists them: "`a`, `b` and `c`"."""
    quoted = [f"`{n}`" for n in names]
    if len(quoted) > limit:
        return ", ".join(quoted[:limit]) + f", and {len(quoted) - limit} more"
    if len(quoted) < 2:
        return "".join(quoted)
    return ", ".join(quoted[:-1]) + f" {word} {quoted[-1]}"


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _slips(a: str, b: str, limit: int) -> int:
    """The edit distance with swaps (optimal string alignment); ``limit + 1`` as soon as it is certain to be above ``limit``."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before = before, row
        row = [i]
        for j, y in enumerate(b, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, last[j - 2] + 1)
            row.append(best)
        if min(row) > limit:
            return limit + 1
    return row[-1]
