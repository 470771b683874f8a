"""Attention over a window, compressed entries and a sink in one softmax (DeepSeek-V4, arXiv:2606.19348, section
2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .groups import slots, visible
from .sparse_blocks import LIMIT, Block, attention_blocks
from .state import Clock


def sparse_attention(
    q: Tensor,
    recent: Tensor,
    sinks: Tensor | None,
    time: Clock,
    *,
    scale: float,
    window: int,
    entries: Tensor | None = None,
    picks: Tensor | None = None,
    every: int = 1,
    limit: int = LIMIT,
) -> Tensor:
    """One softmax over the last ``window`` tokens, compressed entries and a sink, keys being their own values: [B,
    S, H, D].

    q [B, S, H, D]; ``recent`` [B, R, D] from `recall`, one key for all heads, reaching back over window - 1 tokens;
    ``entries`` [B, E, D], one per ``every`` tokens, of which a token sees those whose groups end with it or before,
    or only its ``picks`` [B, S, K] (ids, -1 for none); ``sinks`` [H] are logits that take mass and give no value,
    if there are any. Logits are scale * q . key.

    Runs in blocks of queries: the window is a band, picked entries are gathered, no intermediate exceeds ``limit``
    elements, and the gradient computes the weights of a block again instead of keeping them. In at least float32.
    """
    out, _ = sparse_attention_mass(
        q,
        recent,
        sinks,
        time,
        scale=scale,
        window=window,
        entries=entries,
        picks=picks,
        every=every,
        wanted=False,
        limit=limit,
    )
    return out


def sparse_attention_mass(
    q: Tensor,
    recent: Tensor,
    sinks: Tensor | None,
    time: Clock,
    *,
    scale: float,
    window: int,
    entries: Tensor | None = None,
    picks: Tensor | None = None,
    every: int = 1,
    wanted: bool = True,
    limit: int = LIMIT,
) -> tuple[Tensor, Tensor | None]:
    """`sparse_attention`, and where it is ``wanted`` the logarithm of what each softmax divides by: [B, S, H].

    That is the log-sum-exp of the logits of window, entries and sink together, so that exp(logit - it) is the weight
    of a key. In at least float32, without a gradient.
    """
    (batch, new, heads, dim), kept = q.shape, recent.shape[1] - time.new
    if sinks is None:  # no mass
        sinks = q.new_full((heads,), float("-inf"), dtype=torch.promote_types(q.dtype, torch.float32))
    count = 0 if entries is None else entries.shape[1]
    blocks = attention_blocks(
        batch=batch,
        heads=heads,
        dim=dim,
        past=time.past,
        new=new,
        kept=kept,
        window=window,
        every=every,
        entries=count,
        picks=None if picks is None else picks.shape[-1],
        limit=limit,
    )
    masks = _Masks(time, kept, window, every if entries is not None and picks is None else 0)
    result = _SparseAttention.apply(q, recent, sinks, entries, picks, masks, blocks, scale, wanted)
    return result if wanted else (result, None)  # type: ignore[return-value]


class _Masks:
    """Which keys a block of queries sees."""

    def __init__(self, time: Clock, kept: int, window: int, every: int) -> None:
        here = slots(time)
        self.kept, self.window = kept, window
        # The first row of `recent` that a token's sequence has.
        begin = (torch.zeros_like(here) if time.starts is None else time.starts) - time.first[:, None] + kept
        self.begin = begin[:1] if time.aligned and time.starts is None else begin
        self.low, self.high = visible(time, every) if every else (None, here)

    def near(self, block: Block) -> Tensor:
        """[B or 1, n, 1, rows of the band]"""
        row = torch.arange(block.low, block.high, device=self.begin.device)
        own = self.kept + torch.arange(block.start, block.stop, device=row.device)[:, None]
        seen = (row <= own) & (row > own - self.window) & (row >= self.begin[:, block.start : block.stop, None])
        return seen[:, :, None]

    def far(self, block: Block) -> Tensor:
        """[B, n, 1, entries of the block]"""
        ids = torch.arange(block.entries, device=self.begin.device)
        seen = ids < self.high[:, block.start : block.stop, None]
        if self.low is not None:
            seen = seen & (ids >= self.low[:, block.start : block.stop, None])
        return seen[:, :, None]


@dataclass
class _Weights:
    """The keys of a block, and the softmax over them: near [B, n, H, m], far [B, n, H, E or K], sink [B, n, H]."""

    q: Tensor
    keys: Tensor  # [B, m, D]
    others: Tensor | None  # [B, E, D] or, picked, [B, n, K, D]
    near: Tensor
    far: Tensor | None
    sink: Tensor
    mass: Tensor | None  # [B, n, H] log-sum-exp of all logits, where it is wanted


def _products(left: Tensor, right: Tensor) -> Tensor:
    """left [B, n, H, I] times right [B, I, J] shared by all tokens, or [B, n, I, J] by the heads of one: [B, n, H,
    J].
    """
    if right.dim() == 4:
        return left @ right
    return (left.flatten(1, 2) @ right).view(*left.shape[:3], right.shape[-1])


def _outer(left: Tensor, right: Tensor, picked: bool) -> Tensor:
    """The sum over heads, and over tokens unless keys are picked, of left [B, n, H, I] times right [B, n, H, J]."""
    return left.mT @ right if picked else left.flatten(1, 2).mT @ right.flatten(1, 2)


def _rows_of(picks: Tensor, entries: Tensor) -> Tensor:
    """The rows that picks [B, n, K] mean in all batch rows' entries laid one after the other; -1 reads the first."""
    batch = torch.arange(picks.shape[0], device=picks.device)[:, None, None]
    return picks.clamp(min=0) + batch * entries.shape[1]


def _weights(
    q: Tensor,
    recent: Tensor,
    sinks: Tensor,
    entries: Tensor | None,
    picks: Tensor | None,
    masks: _Masks,
    block: Block,
    scale: float,
    *,
    wanted: bool = False,
) -> _Weights:
    wide = torch.promote_types(q.dtype, torch.float32)
    rows, keys, others = q[:, block.start : block.stop].to(wide), recent[:, block.low : block.high].to(wide), None
    logits = [(_products(rows, keys.mT) * scale).masked_fill_(~masks.near(block), float("-inf"))]
    if entries is not None and block.entries:
        if picks is None:
            others, seen = entries[:, : block.entries].to(wide), masks.far(block)
        else:
            chosen = picks[:, block.start : block.stop]
            others, seen = entries.flatten(0, 1)[_rows_of(chosen, entries)].to(wide), (chosen >= 0)[:, :, None]
        logits.append((_products(rows, others.mT) * scale).masked_fill_(~seen, float("-inf")))
    sink = sinks.to(wide).expand(*rows.shape[:3])
    whole = torch.cat([*logits, sink[..., None]], -1)
    near, *far, last = whole.softmax(-1).split([*(z.shape[-1] for z in logits), 1], -1)
    return _Weights(
        q=rows,
        keys=keys,
        others=others,
        near=near,
        far=far[0] if far else None,
        sink=last[..., 0],
        mass=whole.logsumexp(-1) if wanted else None,
    )


class _SparseAttention(torch.autograd.Function):
    """Keeps its operands and its result; the weights of a block are computed again for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        recent: Tensor,
        sinks: Tensor,
        entries: Tensor | None,
        picks: Tensor | None,
        masks: _Masks,
        blocks: list[Block],
        scale: float,
        wanted: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        mass = q.new_empty(q.shape[:3] if wanted else 0, dtype=torch.promote_types(q.dtype, torch.float32))
        for block in blocks:
            w = _weights(q, recent, sinks, entries, picks, masks, block, scale, wanted=wanted)
            y = _products(w.near, w.keys)
            if w.far is not None and w.others is not None:
                y += _products(w.far, w.others)
            out[:, block.start : block.stop] = y
            if w.mass is not None:
                mass[:, block.start : block.stop] = w.mass
        ctx.save_for_backward(q, recent, sinks, entries, picks, out)
        ctx.masks, ctx.blocks, ctx.scale = masks, blocks, scale
        if not wanted:
            return out
        ctx.mark_non_differentiable(mass)
        return out, mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, recent, sinks, entries, picks, out = ctx.saved_tensors
        wide = torch.promote_types(q.dtype, torch.float32)
        dq = torch.empty_like(q)
        drecent = torch.zeros_like(recent, dtype=wide)
        dsinks = torch.zeros_like(sinks, dtype=wide)
        dentries = None if entries is None else torch.zeros_like(entries, dtype=wide)
        for block in ctx.blocks:
            w = _weights(q, recent, sinks, entries, picks, ctx.masks, block, ctx.scale)
            dy = grad[:, block.start : block.stop].to(wide)
            mean = (dy * out[:, block.start : block.stop].to(wide)).sum(-1, keepdim=True)
            # d logit = weight * (d weight - mean); the sink's value is zero, so its d weight is.
            dsinks -= (w.sink * mean[..., 0]).sum((0, 1))
            dnear = w.near * (_products(dy, w.keys.mT) - mean) * ctx.scale
            drows = _products(dnear, w.keys)
            drecent[:, block.low : block.high] += _outer(w.near, dy, False) + _outer(dnear, w.q, False)
            if w.far is not None and w.others is not None and entries is not None and dentries is not None:
                dfar = w.far * (_products(dy, w.others.mT) - mean) * ctx.scale
                drows += _products(dfar, w.others)
                dothers = _outer(w.far, dy, picks is not None) + _outer(dfar, w.q, picks is not None)
                if picks is None:
                    dentries[:, : block.entries] += dothers
                else:
                    rows = _rows_of(picks[:, block.start : block.stop], entries)
                    dentries.view(-1, dentries.shape[-1]).index_add_(0, rows.flatten(), dothers.flatten(0, 2))
            dq[:, block.start : block.stop] = drows
        dentries = None if entries is None or dentries is None else dentries.to(entries.dtype)
        return dq, drecent.to(recent.dtype), dsinks.to(sinks.dtype), dentries, None, None, None, None, None
