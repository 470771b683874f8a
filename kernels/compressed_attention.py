"""Attention over entries that are made of overlapping blocks of tokens, and the choice of blocks of tokens that follows
from it (Native Sparse Attention, arXiv:2502.11089, sections 3.3.1 and 3.3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .block_choice import Mapping, block_scores, choose_blocks
from .groups import slots, visible
from .kept import kept
from .sparse_blocks import LIMIT, index_blocks
from .state import Clock


def compressed_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    time: Clock,
    *,
    scale: float,
    every: int,
    size: int,
    select: int,
    count: int,
    initial: int,
    local: int,
    mapping: Mapping = "overlap",
    limit: int = LIMIT,
) -> tuple[Tensor, Tensor]:
    """The entries' values weighted by softmax(scale * q . key) [B, S, H, V], and ids of the blocks of ``select`` tokens
    that each group of heads chooses by these weights [B, S, G, min(count, blocks)], -1 where there are fewer.

    q [B, S, H, D], keys [B, E, G, D] and values [B, E, G, V], one entry for every ``every`` tokens, of the ``size``
    tokens up to its group's end; query head h reads key head h * G // H. A token sees the entries of its sequence that
    lie in it or before, whole: not those of the first size / every - 1 groups. Where there are none its result is 0.
    Blocks count from the start of the sequence; `block_scores` says what they are worth, summed over the heads of a
    group, and `choose_blocks` which are taken. A choice has no gradient.

    Runs in blocks of queries, of which no intermediate exceeds ``limit`` elements unless that of a single query does;
    the gradient computes the weights of a block again instead of keeping them. In at least float32.
    """
    (batch, new, heads, _), entries = q.shape, keys.shape[1]
    blocks = index_blocks(batch=batch, heads=heads, past=time.past, new=new, every=every, entries=entries, limit=limit)
    seen = _Seen(time, every, size, select)
    choice = {"every": every, "size": size, "select": select, "mapping": mapping}
    taken = {"count": count, "initial": initial, "local": local}
    operands = q, keys, values, seen, blocks, scale, choice, taken
    if not torch.is_grad_enabled():
        return kept(_attend, *operands)
    return _CompressedAttention.apply(*operands)  # type: ignore[return-value]


class _Seen:
    """Which entries queries see, and in which block of tokens they stand."""

    def __init__(self, time: Clock, every: int, size: int, select: int) -> None:
        self.past, self.every, self.select = time.past, every, select
        self.lead = size // every - 1  # entries at the start of a sequence that nobody sees
        self.low, self.high, self.own = None, None, None
        if time.aligned and time.starts is None:
            return
        here = slots(time)
        self.low, self.high = visible(time, every)
        self.own = (here if time.starts is None else here - time.starts) // select

    def hidden(self, start: int, stop: int, entries: int, device: torch.device) -> Tensor:
        """Which of the first entries queries do not see: [B or 1, queries, entries]."""
        ids = torch.arange(entries, device=device)
        if self.high is not None:
            first = self.lead if self.low is None else self.low[:, start:stop, None] + self.lead
            return (ids >= self.high[:, start:stop, None]) | (ids < first)
        hidden = ids < self.lead
        if stop - start == 1:  # a block has the entries that its last query sees
            return hidden[None, None]
        ages = torch.arange(self.past + start + 1, self.past + stop + 1, device=device)
        return (hidden | (ids >= (ages // self.every)[:, None]))[None]

    def stands(self, start: int, stop: int, device: torch.device) -> Tensor:
        """The block of tokens that each query is in: [B or 1, queries]."""
        if self.own is not None:
            return self.own[:, start:stop]
        return torch.arange(self.past + start, self.past + stop, device=device)[None] // self.select

    def since(self, mass: Tensor, start: int, stop: int) -> Tensor:
        """The mass [B, queries, G, E] of entries, counted from the first of each query's sequence."""
        if self.low is None or self.high is None or not mass.shape[-1]:
            return mass
        ids = self.low[:, start:stop, None] + torch.arange(mass.shape[-1], device=mass.device)
        here = mass.gather(-1, ids.clamp(0, mass.shape[-1] - 1)[:, :, None].expand_as(mass))
        return here.masked_fill((ids >= self.high[:, start:stop, None])[:, :, None], 0)


def _by_group(x: Tensor, groups: int, wide: torch.dtype) -> Tensor:
    """Queries [B, n, H, D], or entries of one head each, as rows of every group: [B * G, n * H / G, D]."""
    x = x.to(wide).unflatten(2, (groups, -1)).transpose(1, 2)
    return x.flatten(2, 3).flatten(0, 1)


def _by_token(rows: Tensor, batch: int, new: int) -> Tensor:
    """And back: [B, n, H, D]."""
    return rows.view(batch, -1, new, rows.shape[1] // new, rows.shape[2]).transpose(1, 2).flatten(2, 3)


def _weights(rows: Tensor, keys: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """The softmax over the entries that a block has: [B * G, n * H / G, E]."""
    weights = torch.baddbmm(rows.new_empty(1), rows, keys.mT, beta=0, alpha=scale)
    shape = len(hidden), len(rows) // len(hidden), hidden.shape[1], rows.shape[1] // hidden.shape[1], hidden.shape[-1]
    hidden = hidden[:, None, :, None]
    # The smallest number, not -inf: queries that see nothing would be NaN
    weights.view(shape).masked_fill_(hidden, torch.finfo(weights.dtype).min)
    weights = weights.softmax(-1)
    weights.view(shape).masked_fill_(hidden, 0)
    return weights


def _attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: _Seen,
    blocks: list[tuple[int, int, int]],
    scale: float,
    choice: dict[str, Any],
    taken: dict[str, int],
) -> tuple[Tensor, Tensor]:
    """What `compressed_attention` gives."""
    (batch, new, heads, _), groups = q.shape, keys.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    out = q.new_zeros(batch, new, heads, values.shape[-1])
    many = min(taken["count"], -(-(seen.past + new) // seen.select))
    picks = torch.full((batch, new, groups, many), -1, dtype=torch.int64, device=q.device)
    keys, values = _by_group(keys, groups, wide), _by_group(values, groups, wide)

    def add_block(start: int, stop: int, entries: int) -> None:
        n = stop - start
        if entries:
            rows = _by_group(q[:, start:stop], groups, wide)
            weights = _weights(rows, keys[:, :entries], seen.hidden(start, stop, entries, q.device), scale)
            out[:, start:stop] = _by_token(torch.bmm(weights, values[:, :entries]), batch, n)
            mass = weights.view(batch, groups, n, -1, entries).sum(3).transpose(1, 2)
        else:
            mass = q.new_zeros((batch, n, groups, 0), dtype=wide)
        there = -(-(seen.past + stop) // seen.select)
        scores = block_scores(seen.since(mass, start, stop), blocks=there, **choice)
        best = choose_blocks(scores, seen.stands(start, stop, q.device), **taken | {"count": min(many, there)})
        picks[:, start:stop, :, : best.shape[-1]] = best

    for start, stop, entries in blocks:
        add_block(start, stop, entries)
    return out, picks


class _CompressedAttention(torch.autograd.Function):
    """Keeps its operands and its result; the weights of a block are computed again for the gradient."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> tuple[Tensor, Tensor]:
        out, picks = kept(_attend, *operands)
        ctx.save_for_backward(*operands[:3], out)
        ctx.seen, ctx.blocks, ctx.scale = operands[3:6]
        ctx.mark_non_differentiable(picks)
        return out, picks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, keys, values, out = ctx.saved_tensors
        batch, groups, wide = len(q), keys.shape[2], torch.promote_types(q.dtype, torch.float32)
        dq = torch.zeros_like(q)
        rows_k, rows_v = _by_group(keys, groups, wide), _by_group(values, groups, wide)
        dkeys, dvalues = torch.zeros_like(rows_k), torch.zeros_like(rows_v)

        def add_block(start: int, stop: int, entries: int) -> None:
            rows = _by_group(q[:, start:stop], groups, wide)
            k, v = rows_k[:, :entries], rows_v[:, :entries]
            weights = _weights(rows, k, ctx.seen.hidden(start, stop, entries, q.device), ctx.scale)
            dy, y = (_by_group(x[:, start:stop], groups, wide) for x in (grad, out))
            mean = (dy * y).sum(-1, keepdim=True)
            dvalues[:, :entries] += torch.bmm(weights.mT, dy)
            # d logit = weight * (d weight - mean)
            slope = torch.baddbmm(mean, dy, v.mT, beta=-ctx.scale, alpha=ctx.scale).mul_(weights)
            dq[:, start:stop] = _by_token(torch.bmm(slope, k), batch, stop - start)
            dkeys[:, :entries] += torch.bmm(slope.mT, rows)

        for start, stop, entries in ctx.blocks:
            if entries:
                add_block(start, stop, entries)
        made = (d.view(batch, groups, *d.shape[1:]).transpose(1, 2) for d in (dkeys, dvalues))
        return dq, *(d.to(x.dtype) for d, x in zip(made, (keys, values), strict=True)), None, None, None, None, None
