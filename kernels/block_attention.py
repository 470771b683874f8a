"""Attention over the tokens of blocks that a group of heads has chosen (Native Sparse Attention, arXiv:2502.11089,
section 3.3.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .groups import slots
from .kept import kept
from .sparse_blocks import GATHERED, picked_blocks
from .state import Clock


def block_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    picks: Tensor,
    time: Clock,
    *,
    scale: float,
    size: int,
    limit: int = GATHERED,
) -> Tensor:
    """The values of the tokens of chosen blocks, weighted by softmax(scale * q . key): [B, S, H, V].

    q [B, S, H, D], keys [B, T, G, D] and values [B, T, G, V] of all tokens so far; query head h reads key head h * G //
    H. ``picks`` [B, S, G, K] are ids of blocks of ``size`` tokens, counted from the start of the query's sequence, -1
    for none; of their tokens a query sees itself and those before. Without any its result is 0.

    The tokens of a query's blocks are gathered, in blocks of queries of which no intermediate exceeds ``limit``
    elements unless that of a single query does; the gradient gathers them again. In at least float32.
    """
    (batch, new, heads, width), groups, many = q.shape, keys.shape[2], picks.shape[-1]
    blocks = picked_blocks(
        batch=batch,
        heads=heads,
        groups=groups,
        width=max(width, values.shape[-1]),
        new=new,
        columns=many * size,
        limit=limit,
    )
    met = _Met(time, size)
    operands = q, keys, values, picks, met, scale, blocks
    if not torch.is_grad_enabled():
        return kept(_attend, *operands)
    return _BlockAttention.apply(*operands)  # type: ignore[return-value]


class _Met:
    """Which tokens queries meet."""

    def __init__(self, time: Clock, size: int) -> None:
        self.past, self.size, self.begin = time.past, size, time.starts
        self.own = None if time.aligned else slots(time)

    def tokens(self, picks: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Slots of the tokens of all blocks that queries chose, and which of them they do not see: [B, queries, G,
        K * size] each.
        """
        device = picks.device
        ids = picks[:, start:stop, :, :, None] * self.size + torch.arange(self.size, device=device)
        ids = ids.flatten(-2)
        if self.own is None:
            own = torch.arange(self.past + start, self.past + stop, device=device)[:, None, None]
        else:
            own = self.own[:, start:stop, None, None]
        hidden = ids < 0
        if self.begin is not None:
            ids = ids + self.begin[:, start:stop, None, None]
        return ids.clamp(min=0).minimum(own), hidden | (ids > own)


def _rows_of(ids: Tensor, groups: int) -> Tensor:
    """Where tokens ids [B, n, G, M] of every head stand among the rows [T * G] of each row's keys: [B, n * G * M]."""
    return (ids * groups + torch.arange(groups, device=ids.device)[:, None]).flatten(1)


def _gathered(x: Tensor, rows: Tensor, columns: int, wide: torch.dtype) -> Tensor:
    """Rows of x [B, T, G, D], as many ``columns`` for every head of a query: [B * n * G, columns, D]."""
    if x.is_contiguous():
        found = x.flatten(0, 2).index_select(0, _among_all(rows, x).flatten())
    else:  # a cache with room for more: no copy of all it holds
        found = torch.cat([of.flatten(0, 1).index_select(0, at) for of, at in zip(x, rows, strict=True)])
    return found.to(wide).view(-1, columns, x.shape[-1])


def _among_all(rows: Tensor, x: Tensor) -> Tensor:
    """Rows of every row of the batch among those of all."""
    if len(rows) == 1:
        return rows
    return rows + torch.arange(len(rows), device=rows.device)[:, None] * (x.shape[1] * x.shape[2])


def _weights(rows: Tensor, keys: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """The softmax over what every group of a query meets: [B * n * G, H / G, M]."""
    logits = torch.baddbmm(rows.new_empty(1), rows, keys.mT, beta=0, alpha=scale)
    hidden = hidden.flatten(0, 2)[:, None]
    # The smallest number, not -inf: queries that meet nothing would be NaN
    weights = logits.masked_fill_(hidden, torch.finfo(logits.dtype).min).softmax(-1)
    return weights.masked_fill_(hidden, 0)


def _queries(x: Tensor, start: int, stop: int, groups: int, wide: torch.dtype) -> Tensor:
    """Of x [B, n, H, D] of a block: [B * n * G, H / G, D]."""
    return x[:, start:stop].to(wide).reshape(-1, x.shape[2] // groups, x.shape[3])


def _attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    picks: Tensor,
    met: _Met,
    scale: float,
    blocks: list[tuple[int, int]],
) -> Tensor:
    """What `block_attention` gives."""
    wide, groups = torch.promote_types(q.dtype, torch.float32), keys.shape[2]
    out = q.new_empty(*q.shape[:3], values.shape[-1])

    def add_block(start: int, stop: int) -> None:
        ids, hidden = met.tokens(picks, start, stop)
        rows, many = _rows_of(ids, groups), ids.shape[-1]
        meets = _queries(q, start, stop, groups, wide)
        weights = _weights(meets, _gathered(keys, rows, many, wide), hidden, scale)
        y = torch.bmm(weights, _gathered(values, rows, many, wide))
        out[:, start:stop] = y.view(len(q), stop - start, *out.shape[2:])

    for start, stop in blocks:
        add_block(start, stop)
    return out


class _BlockAttention(torch.autograd.Function):
    """Keeps its operands and its result; what a block of queries meets is gathered again for the gradient."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        out = kept(_attend, *operands)
        ctx.save_for_backward(*operands[:4], out)
        ctx.met, ctx.scale, ctx.blocks = operands[4:]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, keys, values, picks, out = ctx.saved_tensors
        wide, groups = torch.promote_types(q.dtype, torch.float32), keys.shape[2]
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dkeys, dvalues = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (keys, values))

        def add_block(start: int, stop: int) -> None:
            ids, hidden = ctx.met.tokens(picks, start, stop)
            at = _rows_of(ids, groups)
            k, v = (_gathered(x, at, ids.shape[-1], wide) for x in (keys, values))
            rows, dy, y = (_queries(x, start, stop, groups, wide) for x in (q, grad, out))
            weights = _weights(rows, k, hidden, ctx.scale)
            mean = (dy * y).sum(-1, keepdim=True)
            at = _among_all(at, keys).flatten()
            dvalues.view(-1, v.shape[-1]).index_add_(0, at, torch.bmm(weights.mT, dy).flatten(0, 1))
            # d logit = weight * (d weight - mean)
            slope = torch.baddbmm(mean, dy, v.mT, beta=-ctx.scale, alpha=ctx.scale).mul_(weights)
            dkeys.view(-1, k.shape[-1]).index_add_(0, at, torch.bmm(slope.mT, rows).flatten(0, 1))
            dq[:, start:stop] = torch.bmm(slope, k).view(len(q), stop - start, *q.shape[2:])

        for start, stop in ctx.blocks:
            add_block(start, stop)
        return dq, dkeys.to(keys.dtype), dvalues.to(values.dtype), None, None, None, None
