"""Specs that together have every pair of kinds: chosen greedily among random ones, the same every time.

Each is drawn before anyone knows whether it is valid. The pairs of one that is refused are wanted again later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import combinations
from random import Random

from archc.resolve import check_text
from tests.combinations.draw import Kind, alone, spec, structure, universe

TRIES = 40
"""Random structures of which the one with most pairs that are still rare is taken."""
OFTEN = 3
"""How often a pair is wanted."""

Pair = tuple[Kind, Kind]


@cache
def pairs() -> frozenset[Pair]:
    """Every two kinds that may stand in one model: of slots that a model fills once, one at a time."""
    return frozenset((a, b) for a, b in combinations(sorted(universe()), 2) if a[0] != b[0] or not alone(a[0]))


def pairs_of(kinds: Iterable[Kind]) -> set[Pair]:
    """The pairs of some kinds of one model."""
    return set(combinations(sorted(set(kinds) & set(universe())), 2))


def texts(count: int) -> tuple[str, ...]:
    """So many specs. The first ones are the same whatever the count."""
    return tuple(text for text, _ in drawn(count))


@cache
def drawn(count: int) -> tuple[tuple[str, frozenset[Kind]], ...]:
    """So many specs, and the kinds in each."""
    seen: Counter[Pair] = Counter(dict.fromkeys(pairs(), 0))
    found = []
    for number in range(count):
        rng = Random(number)
        rare = min(seen.values())
        left = sorted(pair for pair, n in seen.items() if n == rare)
        rng.shuffle(left)
        best = max(
            (structure(rng, {kind for pair in left[i : i + 2] for kind in pair}) for i in range(TRIES)),
            key=lambda s: sum(1 / 8 ** seen[p] for p in pairs_of(s.kinds()) if seen[p] < OFTEN),
        )
        text = spec(rng, best, f"mix_{number}")
        if not any(d.severity == "error" for d in check_text(text)):
            seen.update(pairs_of(best.kinds()))
        found.append((text, best.kinds()))
    return tuple(found)
