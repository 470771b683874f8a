"""How far the scores of an indexer are from where attention looks: the loss that trains it (DeepSeek-V3.2;
DeepSeek-V4, section 2.3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .groups import visible
from .kept import kept
from .latents import to_latents
from .sparse_blocks import LIMIT, divergence_blocks
from .state import Clock


def index_divergence(
    index_q: Tensor,
    index_keys: Tensor,
    index_weights: Tensor,
    q: Tensor,
    entries: Tensor,
    lse: Tensor,
    time: Clock,
    *,
    scale: float,
    latent_weight: Tensor | None = None,
    nope: int = 0,
    picks: Tensor | None = None,
    every: int = 1,
    limit: int = LIMIT,
) -> Tensor:
    """KL(p || softmax(I)) over the entries that a query attends to, the mean over the queries that attend to one: a
    number in at least float32.

    p is the weight that attention gives an entry, summed over its heads and divided by that sum over all entries:
    what the window and the sink get is left out. A head's weight is exp(scale * q . entry - lse), of q [B, S, H, D],
    entries [B, E, D], one per ``every`` tokens, and the ``lse`` [B, S, H] of `sparse_attention_lse`; or, with the
    ``latent_weight`` and ``nope`` of `sparse_latent_attend_lse`, of its queries and entries. I is the score
    of `index_topk`, of index_q [B, S, I, C], index_keys [B, E, C] and index_weights [B, S, I]. A query attends to its
    ``picks`` [B, S, K] (ids, -1 for none), or without them to all that it sees; padding never counts.

    The gradient is that of the scores: attention is a constant. Runs in blocks of queries, of which no intermediate
    exceeds ``limit`` elements unless that of a single query does; kept for the gradient are tensors of the sizes of
    the three index operands alone.
    """
    (batch, new, heads, _), count = q.shape, entries.shape[1]
    wide = torch.promote_types(index_q.dtype, torch.float32)
    low, high = visible(time, every)
    gathered, blocks = divergence_blocks(
        batch=batch,
        heads=max(heads, index_q.shape[2]),
        width=max(entries.shape[-1], index_q.shape[3]),
        past=time.past,
        new=new,
        every=every,
        entries=count,
        picks=None if picks is None else picks.shape[-1],
        limit=limit,
    )
    counts = high > (0 if low is None else low) if picks is None else (picks >= 0).any(-1)
    counts = (counts & (torch.arange(new, device=q.device) < time.count[:, None])).to(wide)
    index = (index_q, index_keys, index_weights)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in index)
    maps = None if latent_weight is None else latent_weight.detach().unflatten(0, (heads, -1))[:, :nope]
    constants = _Attention(q.detach(), entries.detach(), maps, lse, picks, gathered, low, high, counts, scale)
    return _IndexDivergence.apply(*index, constants, blocks, learns)  # type: ignore[return-value]


class _Attention(NamedTuple):
    """What the scores are held against."""

    q: Tensor
    entries: Tensor
    maps: Tensor | None  # [H, nope, C] from latents to keys
    lse: Tensor
    picks: Tensor | None
    gathered: bool  # picked entries, for each query; else they are looked up among all
    low: Tensor | None
    high: Tensor
    counts: Tensor  # [B, S] one for queries that count
    scale: float

    def block(self, start: int, stop: int, columns: int, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a block's queries: log p [B, n, M] but for a constant, which of the M entries each sees [B, n, M], and
        the index keys of those [B, M, C] or, picked, [B, n, M, C].
        """
        chosen = None if self.picks is None else self.picks[:, start:stop]
        if chosen is not None and self.gathered:
            seen, ids = chosen >= 0, chosen.clamp(min=0)
            batch = torch.arange(len(chosen), device=chosen.device)[:, None, None]
            entries, keys = self.entries[batch, ids], keys[batch, ids]
        else:
            if chosen is not None:
                seen = chosen.new_zeros((*chosen.shape[:2], columns + 1), dtype=torch.bool)
                seen = seen.scatter_(-1, chosen.where(chosen >= 0, columns), True)[..., :columns]
            else:
                ids = torch.arange(columns, device=self.q.device)
                seen = ids < self.high[:, start:stop, None]
                if self.low is not None:
                    seen = seen & (ids >= self.low[:, start:stop, None])
            entries, keys = self.entries[:, :columns], keys[:, :columns]
        wide, q = self.lse.dtype, self.q[:, start:stop]
        if self.maps is not None:
            q = to_latents(q.flatten(0, 1), self.maps).unflatten(0, q.shape[:2])
        logits = _products(q.to(wide), entries.to(wide).mT).mul_(self.scale)
        return (logits - self.lse[:, start:stop, :, None]).logsumexp(2), seen, keys


def _products(left: Tensor, right: Tensor) -> Tensor:
    """left [B, n, H, I] times right [B, I, J] shared by all queries, or [B, n, I, J] by the heads of one: [B, n, H,
    J].
    """
    if right.dim() == 4:
        return left @ right
    return (left.flatten(1, 2) @ right).view(*left.shape[:3], right.shape[-1])


def _divergence(
    index_q: Tensor,
    index_keys: Tensor,
    index_weights: Tensor,
    attention: _Attention,
    blocks: list[tuple[int, int, int]],
    learns: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What `index_divergence` gives; and what it takes to make its gradient, if it learns: those of the three index
    operands but for a factor, and what divides it.
    """
    counts = attention.counts
    wide, total = counts.dtype, counts.sum().clamp(min=1)
    loss = counts.new_zeros(())
    dq, dweights = (torch.zeros_like(t) if learns else t for t in (index_q, index_weights))
    dkeys = torch.zeros_like(index_keys, dtype=wide) if learns else index_keys

    def add_block(start: int, stop: int, columns: int) -> None:
        log_mass, seen, keys = attention.block(start, stop, columns, index_keys)
        rows, mix = index_q[:, start:stop].to(wide), index_weights[:, start:stop, :, None].to(wide)
        keys = keys.to(wide)
        products = _products(rows, keys.mT)
        met = products.relu()
        scores = (met * mix).sum(2)
        # Queries that see nothing are all NaN here, and zero once what is not seen is.
        want, have = (z.masked_fill(~seen, float("-inf")).log_softmax(-1) for z in (log_mass, scores))
        p = want.exp().masked_fill(~seen, 0)
        here = counts[:, start:stop, None]
        loss.add_((p * (want - have).masked_fill(~seen, 0) * here).sum())
        if not learns:
            return
        dscores = ((have.exp().masked_fill(~seen, 0) - p) * here)[:, :, None]
        dweights[:, start:stop] = (met * dscores).sum(-1)
        dproducts = (dscores * mix).masked_fill(products <= 0, 0)
        dq[:, start:stop] = _products(dproducts, keys)
        if attention.picks is None or not attention.gathered:
            dkeys[:, :columns] += dproducts.flatten(1, 2).mT @ rows.flatten(1, 2)
        else:
            batch = torch.arange(len(seen), device=seen.device)[:, None, None]
            ids = attention.picks[:, start:stop].clamp(min=0) + batch * index_keys.shape[1]
            dkeys.view(-1, dkeys.shape[-1]).index_add_(0, ids.flatten(), (dproducts.mT @ rows).flatten(0, 2))

    for start, stop, columns in blocks:
        if columns:
            add_block(start, stop, columns)
    return loss / total, (dq, dkeys.to(index_keys.dtype), dweights, total) if learns else ()


class _IndexDivergence(torch.autograd.Function):
    """Its gradient is made along with it: the products it takes are at hand, and only a factor is missing."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        loss, gradients = kept(_divergence, *operands)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *gradients, total = ctx.saved_tensors
        factor = grad / total
        return (*(g * factor for g in gradients), None, None, None)
