"""Times for tests: rows of any past and any number of new tokens, packed or not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Row b has ``count[b]`` new tokens after ``first[b]`` old ones, padded to ``new``; ``lengths`` are packed
    sequences."""

    pasts: tuple[int, ...]
    counts: tuple[int, ...]
    new: int
    cached: bool
    lengths: tuple[tuple[int, ...], ...] | None = None

    @property
    def first(self) -> Tensor:
        return torch.tensor(self.pasts)

    @property
    def count(self) -> Tensor:
        return torch.tensor(self.counts)

    @property
    def positions(self) -> Tensor:
        """Float64, as the interpreter's time in a float64 run."""
        return torch.tensor(
            [[p + j - self.start(b, p + j) for j in range(self.new)] for b, p in enumerate(self.pasts)]
        ).double()

    @property
    def past(self) -> int:
        return max(self.pasts)

    @property
    def aligned(self) -> bool:
        return len(set(self.pasts)) == 1

    @property
    def full(self) -> bool:
        return set(self.counts) == {self.new}

    @property
    def starts(self) -> Tensor | None:
        return (
            None
            if self.lengths is None
            else torch.tensor([[self.start(b, t) for t in range(self.new)] for b in self.batch])
        )

    @property
    def batch(self) -> range:
        return range(len(self.pasts))

    def start(self, b: int, t: int) -> int:
        """The slot of the first token of the sequence that slot t belongs to; padding is a sequence of its own."""
        if self.lengths is None:
            return 0
        begin = 0
        for length in self.lengths[b]:
            if t < begin + length:
                return begin
            begin += length
        return begin

    def valid(self) -> list[tuple[int, int]]:
        """(row, column) of every new token that is not padding."""
        return [(b, j) for b in self.batch for j in range(self.counts[b])]


@st.composite
def rows(draw: st.DrawFn, *, most: int = 14, packed: bool = True) -> Rows:
    """Any of: one forward, a chunk after others, packed rows; full or ragged."""
    batch = draw(st.integers(1, 3))
    new = draw(st.integers(1, most))
    counts = tuple(draw(st.integers(1, new)) for _ in range(batch)) if draw(st.booleans()) else (new,) * batch
    kind = draw(st.sampled_from(["whole", "cached", "packed"] if packed else ["whole", "cached"]))
    if kind == "cached":
        past = draw(st.integers(0, most))
        pasts = tuple(draw(st.integers(0, past)) for _ in range(batch)) if draw(st.booleans()) else (past,) * batch
        return Rows(pasts=pasts, counts=counts, new=new, cached=True)
    lengths = tuple(_split(draw, n) for n in counts) if kind == "packed" else None
    return Rows(pasts=(0,) * batch, counts=counts, new=new, cached=False, lengths=lengths)


def _split(draw: st.DrawFn, n: int) -> tuple[int, ...]:
    parts = []
    while n:
        parts.append(draw(st.integers(1, n)))
        n -= parts[-1]
    return tuple(parts)


def recalled(history: Tensor, time: Rows, keep: int) -> Tensor:
    """What `recall` would give of a history [B, slots, ...]: ``keep`` old tokens (NaN where there are none), then
    the new ones."""
    kept = keep if time.cached else 0
    out = history.new_full(
        (len(time.pasts), kept + time.new, *history.shape[2:]), float("nan") if history.is_floating_point() else -7
    )
    for b in time.batch:
        for r in range(kept + time.new):
            slot = time.pasts[b] - kept + r
            if 0 <= slot < time.pasts[b] + time.counts[b]:
                out[b, r] = history[b, slot]
            elif r >= kept:
                out[b, r] = 0.5 if history.is_floating_point() else 3  # padding holds some finite number
    return out
