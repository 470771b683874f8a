"""The value of a param at which two quantities are closest: by bisection where they cross, by trying all few."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from archc.resolve.domains import Interval

FEW = 64
"""So many values are all tried."""

MOST = 2048
"""So many are all tried where the residual rises and falls."""

PROBES = 9
"""Values spread over the domain, by which it is seen how the residual runs."""

REACH = 32
"""How far a value that gives no model is passed over, to either side."""

DIGITS = 9
"""Digits of the values that an interval is divided into, below the first of its width."""

Residual = Callable[[int | float], float | None]
"""Left minus right at a value, None where that gives no model."""


def closest(values: Sequence[int | float] | Interval, residual: Residual) -> int | float | None:
    """The value with the smallest residual, by its size; of equals the first. None where no value has one.

    ``values`` are in order. Where there are more than `FEW`, some are probed: between two of which one lies above and
    one below, bisection finds where the residual changes its sign. All that was seen, neighbours of the result among
    it, must then rise or fall throughout; else up to `MOST` values are all tried, and of more the surroundings of the
    best are probed again and again, which finds a value that is better than those around it.
    """
    if isinstance(values, Interval):
        at, n = _divided(values)
    else:
        at, n = values.__getitem__, len(values)
    search = _Search(n, lambda i: residual(at(i)))
    best = search.best()
    return None if best is None else at(best)


def _divided(interval: Interval) -> tuple[Callable[[int], float], int]:
    """The values of an interval that are tried, by their places, and how many there are: decimals from its low end on,
    and its high end.
    """
    low, high = interval.low, interval.high
    if low == high:
        return (lambda _: low), 1
    places = DIGITS - math.floor(math.log10(high - low))
    step = 10.0**-places
    last = math.ceil((high - low) / step)
    return (lambda i: high if i == last else min(max(round(low + i * step, places), low), high)), last + 1


class _Search:
    """A search over the places of values; what was seen is kept."""

    def __init__(self, n: int, residual: Callable[[int], float | None]) -> None:
        self.n, self._residual = n, residual
        self._seen: dict[int, float | None] = {}

    def best(self) -> int | None:
        """The place of the smallest residual."""
        if self.n <= FEW:
            self._try_all()
            return self._smallest()
        self._probe(0, self.n - 1)
        whole = self._cross() and self._look_around() and self._monotone()
        if not whole and self.n <= MOST:
            self._try_all()
        elif not whole:
            self._refine()
        return self._smallest()

    def at(self, i: int) -> float | None:
        """The residual at a place, None where there is no model."""
        if i not in self._seen:
            self._seen[i] = self._residual(i)
        return self._seen[i]

    def _try_all(self) -> None:
        for i in range(self.n):
            self.at(i)

    def _points(self) -> list[tuple[int, float]]:
        """What was seen, in order."""
        return sorted((i, f) for i, f in self._seen.items() if f is not None)

    def _smallest(self) -> int | None:
        points = self._points()
        return min(points, key=lambda p: (abs(p[1]), p[0]))[0] if points else None

    def _near(self, i: int, low: int, high: int) -> int | None:
        """The place closest to ``i`` from ``low`` to ``high`` that has a model, None where none is in reach."""
        for d in range(REACH + 1):
            for j in (i - d, i + d) if d else (i,):
                if low <= j <= high and self.at(j) is not None:
                    return j
        return None

    def _probe(self, low: int, high: int) -> None:
        for k in range(PROBES):
            self._near(low + (high - low) * k // (PROBES - 1), low, high)

    def _cross(self) -> bool:
        """Bisects wherever the residual changes its sign; whether that went through to the end."""
        through = True
        for (a, at_a), (b, at_b) in pairwise(self._points()):
            if (at_a < 0) != (at_b < 0):
                through &= self._bisect(a, b, at_a < 0)
        return through

    def _bisect(self, a: int, b: int, below: bool) -> bool:
        while b - a > 1:
            m = self._near((a + b) // 2, a + 1, b - 1)
            if m is None:
                return b - a <= REACH  # every value between has been tried
            if ((self.at(m) or 0.0) < 0) == below:
                a = m
            else:
                b = m
        return True

    def _look_around(self) -> bool:
        """Tries the neighbours of the best; whether there is a best."""
        best = self._smallest()
        if best is None:
            return False
        self._near(best - 1, 0, best - 1)
        self._near(best + 1, best + 1, self.n - 1)
        return True

    def _monotone(self) -> bool:
        """Whether all that was seen rises throughout, or falls."""
        steps = [b - a for (_, a), (_, b) in pairwise(self._points())]
        return all(s >= 0 for s in steps) or all(s <= 0 for s in steps)

    def _refine(self) -> None:
        """Probes the surroundings of the best until it has neighbours on both sides, and bisects what crosses there."""
        while (best := self._smallest()) is not None:
            places = [i for i, _ in self._points()]
            k, known = places.index(best), len(self._seen)
            low, high = places[max(k - 1, 0)], places[min(k + 1, len(places) - 1)]
            self._probe(low, high)
            self._cross()
            if len(self._seen) == known:
                return
