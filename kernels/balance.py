"""Losses that level how many tokens each expert gets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sequence_balance(scores: Tensor, ids: Tensor, time: Any) -> Tensor:
    """Sum over experts of f P, the mean over sequences: 1 where loads are even, E / K at most.

    Of a sequence of T tokens that choose K of E experts each, f = E / (K T) times the choices of an expert, and P its
    mean score over the tokens, after the scores of each token are divided by their sum. scores [B, S, E], ids
    [B, S, K]. A row is a sequence, or holds several (``time.starts``); only tokens of this call count, never padding.
    The gradient is that of the scores: choices have none.
    """
    (rows, new, experts), k = scores.shape, ids.shape[-1]
    sequence = torch.arange(rows, device=ids.device)[:, None].expand(-1, new)
    count = rows
    if time.starts is not None:  # numbered by the column of their first token, so that nobody has to count them
        sequence, count = sequence * new + time.starts, rows * new
    sequence, weight = sequence.flatten(), time.valid.flatten().to(scores.dtype)
    # Sums of ones are exact in any order, so the loss and its gradient are the same in every run.
    length = weight.new_zeros(count).index_add(0, sequence, weight)
    place = (sequence[:, None] * experts + ids.flatten(0, 1)).flatten()
    choices = weight.new_zeros(count * experts).index_add(0, place, weight.repeat_interleave(k))
    share = (scores / (scores.sum(-1, keepdim=True) + 1e-20)).flatten(0, 1)
    met = (choices.view(count, experts)[sequence] * share).sum(-1)  # each token's scores against its sequence's loads
    met = (weight * met / length.clamp(min=1)[sequence] ** 2).sum()
    return experts / k * met / (length > 0).sum().clamp(min=1)


def batch_shares(scores: Tensor, ids: Tensor, time: Any) -> Tensor:
    """What a layer adds to `batch_balance`, a row each: choices of every expert, its scores summed, tokens: [3, E].

    scores [B, S, E], probabilities; ids [B, S, K]. Padding never counts.
    """
    weight, k = time.valid.to(scores.dtype), ids.shape[-1]
    choices = weight.new_zeros(scores.shape[-1]).index_add(0, ids.flatten(), weight.flatten().repeat_interleave(k))
    score = (scores * weight[..., None]).sum((0, 1))
    return torch.stack([choices, score, weight.sum().expand_as(score)])


def batch_balance(shares: Tensor) -> Tensor:
    """The number of experts times the sum over them of choices per token times mean score: K where loads are even.

    shares [3, E]: the `batch_shares` of all layers added up.
    """
    choices, score, tokens = shares
    return len(choices) * (choices * score / tokens.clamp(min=1) ** 2).sum()
