"""Attention over picked tokens whose keys and values are linear maps of one cached latent each (DeepSeek-V3.2,
arXiv:2512.02556, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .groups import visible
from .kept import kept
from .latents import by_head, to_latents
from .packed_rows import read_picked
from .sparse_blocks import LIMIT, latent_blocks
from .state import Clock, Packed


def sparse_latent_attend(
    q: Tensor,
    entries: Tensor | Packed,
    weight: Tensor,
    time: Clock,
    *,
    nope: int,
    scale: float,
    picks: Tensor | None = None,
    limit: int = LIMIT,
) -> Tensor:
    """The values that each query picked, weighted by softmax(scale * q . k): [B, S, H, V].

    q [B, S, H, nope + R]; entries [B, T, C + R] from `append`: a latent of C channels, then R rotated ones that the
    keys of all heads share. weight [H * (nope + V), C] maps a latent to each head's first ``nope`` key channels, then
    to its values. A query attends to its ``picks`` [B, S, K] (ids, -1 for none), without them to all that it sees;
    one that sees nothing reads zeros.

    Runs in latent space: q . (W c) = (W^T q) . c, and the weighted sum of W c is W times the weighted sum of c. In
    blocks of queries, of which no intermediate exceeds ``limit`` elements unless that of a single query does; picked
    latents are gathered where they are few among many, and the gradient computes the weights of a block again. Softmax
    in at least float32.
    """
    out, _ = sparse_latent_attend_lse(
        q, entries, weight, time, nope=nope, scale=scale, picks=picks, wanted=False, limit=limit
    )
    return out


def sparse_latent_attend_lse(
    q: Tensor,
    entries: Tensor | Packed,
    weight: Tensor,
    time: Clock,
    *,
    nope: int,
    scale: float,
    picks: Tensor | None = None,
    wanted: bool = True,
    limit: int = LIMIT,
) -> tuple[Tensor, Tensor | None]:
    """`sparse_latent_attend`, and where it is ``wanted`` the log-sum-exp of each softmax: [B, S, H], in at least
    float32, without a gradient.
    """
    batch, new, heads, _ = q.shape
    gathered, blocks = latent_blocks(
        batch=batch,
        heads=heads,
        width=entries.shape[-1],
        past=time.past,
        new=new,
        entries=entries.shape[1],
        picks=None if picks is None else picks.shape[-1],
        limit=limit,
    )
    if isinstance(entries, Packed):
        entries, picks = read_picked(entries, picks) if gathered else (entries.decode(), picks)
    low, high = visible(time, 1) if picks is None else (None, None)
    plan = _Plan(nope, scale, gathered, low, high, blocks, wanted)
    if not torch.is_grad_enabled():
        return _attend(q, entries, weight, picks, plan)
    result = _SparseLatentAttend.apply(q, entries, weight, picks, plan)
    return result if wanted else (result, None)  # type: ignore[return-value]


@dataclass
class _Plan:
    """How attention runs."""

    nope: int
    scale: float
    gathered: bool
    low: Tensor | None  # without picks: the entries low <= id < high that each query sees [B, S]
    high: Tensor | None
    blocks: list[tuple[int, int, int]]
    wanted: bool


@dataclass
class _Met:
    """What the queries of a block meet, and the softmax over it: N = B batches of n * H queries, or gathered B * n of
    H.
    """

    rows: Tensor  # [N, q, C + R]
    others: Tensor  # [N, m, C + R]
    ids: Tensor | None  # [B * n * m] rows of all entries laid one after the other, where they are gathered
    weights: Tensor  # [N, q, m]
    lse: Tensor  # [N, q, 1]


def _met(
    q: Tensor,
    entries: Tensor,
    weight: Tensor,
    picks: Tensor | None,
    plan: _Plan,
    start: int,
    stop: int,
    columns: int,
) -> _Met:
    wide = torch.promote_types(q.dtype, torch.float32)
    (batch, _, heads, _), count = q.shape, stop - start
    keys = weight.unflatten(0, (heads, -1))[:, : plan.nope]
    rows = to_latents(q[:, start:stop].flatten(0, 1), keys).to(wide)
    chosen, ids = None if picks is None else picks[:, start:stop], None
    if chosen is not None and plan.gathered:
        # In the place of none, the best pick again: what nobody picked is not even read
        ids = chosen.where(chosen >= 0, chosen[..., :1]).clamp(min=0)
        if batch > 1:
            ids = ids + torch.arange(batch, device=q.device)[:, None, None] * entries.shape[1]
        ids, unseen = ids.flatten(), (chosen < 0)[:, :, None]
        others = entries.flatten(0, 1).index_select(0, ids).to(wide).view(batch * count, columns, -1)
        rows = rows.view(batch * count, heads, -1)
    else:
        others = entries[:, :columns].to(wide)
        unseen = _unseen(plan, start, stop, columns, q.device) if chosen is None else _unpicked(chosen, columns)
        unseen = unseen[:, :, None]
        rows = rows.view(batch, count * heads, -1)
    logits = torch.baddbmm(rows.new_empty(1), rows, others.mT, beta=0, alpha=plan.scale)
    logits.view(batch, count, heads, -1).masked_fill_(unseen, float("-inf"))
    # Where nothing is seen, all weights are zero
    lse = logits.logsumexp(-1, keepdim=True).clamp_(min=torch.finfo(wide).min)
    return _Met(rows, others, ids, logits.sub_(lse).exp_(), lse)


def _unpicked(picks: Tensor, columns: int) -> Tensor:
    """Which of the first entries are not among picks [B, n, K]: [B, n, columns]."""
    hidden = picks.new_ones((*picks.shape[:2], columns + 1), dtype=torch.bool)
    return hidden.scatter_(-1, picks.where(picks >= 0, columns), False)[..., :columns]


def _unseen(plan: _Plan, start: int, stop: int, columns: int, device: torch.device) -> Tensor:
    """Which of the first entries queries do not see: [B, n, columns]."""
    assert plan.high is not None
    ids = torch.arange(columns, device=device)
    hidden = ids >= plan.high[:, start:stop, None]
    return hidden if plan.low is None else hidden | (ids < plan.low[:, start:stop, None])


def _attend(
    q: Tensor, entries: Tensor, weight: Tensor, picks: Tensor | None, plan: _Plan
) -> tuple[Tensor, Tensor | None]:
    """What the queries read, and the log-sum-exp of each softmax if it is wanted."""
    (batch, new, heads, _), latent = q.shape, weight.shape[1]
    values = weight.unflatten(0, (heads, -1))[:, plan.nope :].mT
    out = q.new_empty(batch, new, heads, values.shape[-1])
    wide = torch.promote_types(q.dtype, torch.float32)
    lse = q.new_empty(batch, new, heads, dtype=wide) if plan.wanted else None

    def add_block(start: int, stop: int, columns: int) -> None:
        met = _met(q, entries, weight, picks, plan, start, stop, columns)
        means = met.weights.bmm(met.others[..., :latent]).to(q.dtype).view(-1, heads, latent)
        out[:, start:stop] = by_head(means, values).unflatten(0, (batch, stop - start))
        if lse is not None:
            lse[:, start:stop] = met.lse.view(batch, stop - start, heads)

    # A function of its own: nothing of a block lives while the next one is made
    for block in plan.blocks:
        add_block(*block)
    return out, lse


class _SparseLatentAttend(torch.autograd.Function):
    """Keeps its operands and its result; the weights of a block are computed again for the gradient."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor | tuple[Tensor, Tensor]:
        out, lse = kept(_attend, *operands)
        ctx.save_for_backward(*operands[:4], out)
        ctx.plan = operands[4]
        if lse is None:
            return out
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, entries, weight, picks, out = ctx.saved_tensors
        plan, wide = ctx.plan, torch.promote_types(q.dtype, torch.float32)
        heads, latent = q.shape[2], weight.shape[1]
        keys, values = weight.unflatten(0, (heads, -1)).split((plan.nope, weight.shape[0] // heads - plan.nope), 1)
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dentries, dweight = torch.zeros_like(entries, dtype=wide), torch.zeros_like(weight, dtype=wide)
        dkeys, dvalues = dweight.unflatten(0, (heads, -1)).split((plan.nope, values.shape[1]), 1)

        def add_block(start: int, stop: int, columns: int) -> None:
            met = _met(q, entries, weight, picks, plan, start, stop, columns)
            dy, shape = grad[:, start:stop].flatten(0, 1), met.rows.shape[:2]
            mean = (dy.to(wide) * out[:, start:stop].flatten(0, 1).to(wide)).sum(-1).view(*shape, 1)
            means = met.weights.bmm(met.others[..., :latent]).to(q.dtype).view(-1, heads, latent)
            dvalues.add_(dy.permute(1, 2, 0).bmm(means.transpose(0, 1)))
            dmeans = by_head(dy, values).to(wide).reshape(*shape, latent)
            # d logit = weight * (d weight - mean)
            dlogits = torch.baddbmm(mean, dmeans, met.others[..., :latent].mT, beta=-plan.scale, alpha=plan.scale).mul_(
                met.weights
            )
            drows = dlogits.bmm(met.others).to(q.dtype).view(-1, heads, entries.shape[-1])
            some = dq[:, start:stop]
            some[..., plan.nope :] = drows[..., latent:].unflatten(0, some.shape[:2])
            some[..., : plan.nope] = by_head(drows[..., :latent], keys.mT).unflatten(0, some.shape[:2])
            asked = q[:, start:stop, :, : plan.nope].flatten(0, 1)
            dkeys.add_(asked.permute(1, 2, 0).bmm(drows[..., :latent].transpose(0, 1)))
            dothers = dlogits.mT.bmm(met.rows)
            dothers[..., :latent] += met.weights.mT.bmm(dmeans)
            if met.ids is not None:
                dentries.view(-1, entries.shape[-1]).index_add_(0, met.ids, dothers.flatten(0, 1))
            else:
                dentries[:, :columns] += dothers

        for block in plan.blocks:
            add_block(*block)
        return dq, dentries.to(entries.dtype), dweight.to(weight.dtype), None, None
