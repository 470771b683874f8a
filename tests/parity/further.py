"""Batches for modules that predict further tokens, and their losses as a reference gives them sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

COLUMNS = 23


def _ones(rows: int) -> Tensor:
    return torch.ones(rows, COLUMNS, dtype=torch.long)


def _padded() -> Tensor:
    """Padding on the left, on the right and between; rows of one, two and three tokens, which have fewer targets."""
    mask = _ones(6)
    mask[0, :5] = mask[1, 17:] = mask[2, 4:9] = 0
    mask[3, 1:] = mask[4, 2:] = mask[5, :-3] = 0
    return mask


def _packed() -> Tensor:
    """Sequences of 1 to 14 tokens side by side, padding between some of them."""
    rows = [
        [1] * 9 + [2] * 14,
        [3] * 2 + [1] + [2] * 3 + [4] * 10 + [0] * 7,
        [0] * 3 + [7] * 4 + [0] + [7] * 5 + [8] * 10,
    ]
    return torch.tensor(rows)


ROWS = {
    "whole": _ones(3),
    "padded": _padded(),
    "packed": _packed(),
    "one_token": _ones(2)[:, :1],
    "two": _ones(2)[:, :2],
}
"""Which sequence each token belongs to [B, S], 0 for padding."""


def batch(rows: str, vocab: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Tokens, labels of four in five, and what tells a package which sequence is which."""
    sequences = ROWS[rows]
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(vocab, sequences.shape, generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.2, -100)
    given = {"packed": {"sequence_ids": sequences}, "padded": {"attention_mask": sequences}}.get(rows, {})
    return ids, labels, given


def losses(
    reference: Callable[[Tensor, Tensor], Sequence[tuple[Any, int]]], rows: str, ids: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of the main model and the mean of those of its modules.

    ``reference`` gives, of one sequence alone, the sum and the number of terms of each.
    """
    totals: list[tuple[Any, int]] = []
    for row, sequence in enumerate(ROWS[rows]):
        for one in sequence[sequence > 0].unique():
            at = sequence == one
            sums = reference(ids[row, at], labels[row, at])
            totals = [(t + s, n + m) for (t, n), (s, m) in zip(totals or [(0, 0)] * len(sums), sums, strict=True)]
    assert rows in ("one_token", "two") or min(n for _, n in totals) > 10
    main, *further = (total / max(1, n) for total, n in totals)
    return main, torch.stack(further).mean()
