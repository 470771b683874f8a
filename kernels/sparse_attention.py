"""Attention over a window, compressed entries and a sink in one softmax (DeepSeek-V4, arXiv:2606.19348, section
2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import on_cpu
from .groups import slots, visible
from .kept import kept
from .packed_rows import read_picked
from .sparse_blocks import LIMIT, Block, Schedule, attention_blocks
from .state import Clock, Packed


def sparse_attention(
    q: Tensor,
    recent: Tensor,
    sinks: Tensor | None,
    time: Clock,
    *,
    scale: float,
    window: int,
    entries: Tensor | Packed | None = None,
    picks: Tensor | None = None,
    every: int = 1,
    limit: int = LIMIT,
) -> Tensor:
    """One softmax over the last ``window`` tokens, compressed entries and a sink, keys being their own values: [B,
    S, H, D].

    q [B, S, H, D]; ``recent`` [B, R, D] from `recall`, one key for all heads, reaching back over window - 1 tokens;
    ``entries`` [B, E, D], one per ``every`` tokens, of which a token sees those whose groups end with it or before,
    or of these only its ``picks`` [B, S, K] (ids, -1 for none); ``sinks`` [H] are logits that take mass and give no
    value, if there are any. Logits are scale * q . key.

    Runs in blocks of queries: the window is a band, picked entries are gathered where they are few among many, no
    intermediate exceeds ``limit`` elements, and the gradient computes the weights of a block again instead of keeping
    them. In at least float32.
    """
    out, _ = sparse_attention_lse(
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


def sparse_attention_lse(
    q: Tensor,
    recent: Tensor,
    sinks: Tensor | None,
    time: Clock,
    *,
    scale: float,
    window: int,
    entries: Tensor | Packed | None = None,
    picks: Tensor | None = None,
    every: int = 1,
    wanted: bool = True,
    limit: int = LIMIT,
) -> tuple[Tensor, Tensor | None]:
    """`sparse_attention`, and where it is ``wanted`` the log-sum-exp of each softmax: [B, S, H].

    It is of the logits of window, entries and sink together, so that exp(logit - lse) is the weight of a key. In at
    least float32, without a gradient.
    """
    if not (wanted or isinstance(entries, Packed)):
        one = on_cpu.attend(
            q, recent, sinks, time, scale=scale, window=window, entries=entries, picks=picks, every=every
        )
        if one is not None:
            return one, None
    (batch, new, heads, dim), kept = q.shape, recent.shape[1] - time.new
    if sinks is None:  # no mass
        sinks = q.new_full((heads,), float("-inf"), dtype=torch.promote_types(q.dtype, torch.float32))
    if entries is not None and entries.shape[1] == 0:
        entries = picks = None
    schedule = attention_blocks(
        batch=batch,
        heads=heads,
        dim=dim,
        past=time.past,
        new=new,
        kept=kept,
        window=window,
        every=every,
        entries=0 if entries is None else entries.shape[1],
        picks=None if picks is None else picks.shape[-1],
        limit=limit,
    )
    if isinstance(entries, Packed):
        entries, picks = read_picked(entries, picks) if schedule.gathered else (entries.decode(), picks)
    hidden = _Hidden(time, kept, window, every if entries is not None and picks is None else 0)
    operands = q, recent, sinks, entries, picks, hidden, schedule, scale, wanted
    if not torch.is_grad_enabled():
        return _attend(*operands)
    result = _SparseAttention.apply(*operands)
    return result if wanted else (result, None)  # type: ignore[return-value]


class _Hidden:
    """Which keys the queries of a block do not see; None where they see all."""

    def __init__(self, time: Clock, kept: int, window: int, every: int) -> None:
        self.kept, self.window, self.past, self.every = kept, window, time.past, every
        self.begin, self.low, self.high = None, None, None
        if time.aligned and time.starts is None:
            return
        # The first row of `recent` that a token's sequence has, and the entries that it sees.
        here = slots(time)
        self.begin = (torch.zeros_like(here) if time.starts is None else time.starts) - time.first[:, None] + kept
        if every:
            self.low, self.high = visible(time, every)

    def near(self, block: Block, look: int, device: torch.device) -> Tensor | None:
        """Of the window rows of their band: [B or 1, bands or 1, queries, 1, rows of the band]."""
        bands, band = (block.stop - block.start) // block.rows, look + block.rows
        hidden = None
        row = torch.arange(band, device=device)
        if block.rows > 1:
            own = torch.arange(look, band, device=device)[:, None]
            hidden = ((row > own) | (row <= own - self.window))[:, None]
        first = self.kept - look + block.start  # the row of `recent` where the first band begins
        if self.begin is not None:
            row = row + torch.arange(first, first + bands * block.rows, block.rows, device=device)[:, None, None]
            begin = self.begin[:, block.start : block.stop].unflatten(1, (bands, block.rows))
            missing = (row < begin[..., None])[:, :, :, None]
        elif first < self.kept - self.past:
            row = row + torch.arange(first, first + bands * block.rows, block.rows, device=device)[:, None, None, None]
            missing = row < self.kept - self.past
        else:
            return hidden
        return missing if hidden is None else hidden | missing

    def far(self, block: Block, device: torch.device) -> Tensor | None:
        """Of the entries of their block, where none are picked: [B or 1, queries, 1, entries]."""
        ids = torch.arange(block.entries, device=device)
        if self.high is None:
            if block.stop - block.start == 1:  # a block has the entries that its last query sees
                return None
            here = torch.arange(self.past + block.start + 1, self.past + block.stop + 1, device=device)
            return (ids >= (here // self.every)[:, None])[None, :, None]
        hidden = ids >= self.high[:, block.start : block.stop, None]
        if self.low is not None:
            hidden = hidden | (ids < self.low[:, block.start : block.stop, None])
        return hidden[:, :, None]


@dataclass
class _Weights:
    """What the queries of a block meet, and the softmax over it: N = B * bands of n = rows * H queries each."""

    q: Tensor  # [N, n, D]
    keys: Tensor  # [N, D, m]
    others: Tensor | None  # [B, E, D] or, gathered, [B * S, K, D]
    near: Tensor  # [N, n, m]
    far: Tensor | None  # [B, S * H, E] or, gathered, [B * S, H, K]
    sink: Tensor  # [B, S, H]
    lse: Tensor | None  # [B, S, H] log-sum-exp of all logits, where it is wanted


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale * left @ right, of batches of matrices."""
    return torch.baddbmm(left.new_empty(1), left, right, beta=0, alpha=scale)


def _rows_of(picks: Tensor, entries: Tensor) -> Tensor:
    """The rows that picks [B, n, K] mean in all batch rows' entries laid one after the other; -1 reads the first."""
    rows = picks.clamp(min=0)
    if len(picks) > 1:
        rows = rows + torch.arange(len(picks), device=picks.device)[:, None, None] * entries.shape[1]
    return rows.flatten()


def _unpicked(picks: Tensor, entries: int) -> Tensor:
    """Which entries are not among picks [B, n, K]: [B, n, 1, entries]."""
    hidden = picks.new_ones((*picks.shape[:2], entries + 1), dtype=torch.bool)
    return hidden.scatter_(-1, picks.where(picks >= 0, entries), False)[..., None, :entries]


def _padded(recent: Tensor, kept: int, look: int) -> tuple[Tensor, int]:
    """The window rows, with some before the first if a band reads back further than that, and where bands begin."""
    if look <= kept:
        return recent, kept - look
    return F.pad(recent, (0, 0, look - kept, 0)), 0


def _weights(
    q: Tensor,
    bands: tuple[Tensor, int],
    sinks: Tensor,
    entries: Tensor | None,
    picks: Tensor | None,
    hidden: _Hidden,
    schedule: Schedule,
    block: Block,
    scale: float,
    *,
    wanted: bool = False,
) -> _Weights:
    wide, look = torch.promote_types(q.dtype, torch.float32), schedule.look
    recent, base = bands
    batch, (_, _, heads, dim), new = len(q), q.shape, block.stop - block.start
    rows = q[:, block.start : block.stop].to(wide).reshape(-1, block.rows * heads, dim)
    keys = recent[:, base + block.start : base + block.stop + look].to(wide)
    keys = keys.unfold(1, look + block.rows, block.rows).flatten(0, 1)
    logits = [_scaled(rows, keys, scale).view(batch, -1, block.rows, heads, look + block.rows)]
    unseen = hidden.near(block, look, q.device)
    if unseen is not None:
        logits[0].masked_fill_(unseen, float("-inf"))
    logits[0] = logits[0].flatten(1, 2)
    others = None
    if entries is not None and block.entries:
        chosen = None if picks is None else picks[:, block.start : block.stop]
        if chosen is not None and schedule.gathered:
            others = entries.flatten(0, 1).index_select(0, _rows_of(chosen, entries)).to(wide)
            others, unseen = others.view(batch * new, -1, dim), (chosen < 0)[:, :, None]
            far = rows.reshape(batch * new, heads, dim)
        else:
            others = entries[:, : block.entries].to(wide)
            unseen = hidden.far(block, q.device) if chosen is None else _unpicked(chosen, block.entries)
            far = rows.reshape(batch, new * heads, dim)
        far = _scaled(far, others.mT, scale).view(batch, new, heads, -1)
        logits.append(far if unseen is None else far.masked_fill_(unseen, float("-inf")))
    whole = torch.cat([*logits, sinks.to(wide)[:, None].expand(batch, new, -1, -1)], -1)
    weights, many = whole.softmax(-1), look + block.rows
    far = None
    if others is not None:
        far = weights[..., many:-1].reshape(len(others), -1, others.shape[1])
    return _Weights(
        q=rows,
        keys=keys,
        others=others,
        near=weights[..., :many].reshape(len(keys), -1, many),
        far=far,
        sink=weights[..., -1],
        lse=whole.logsumexp(-1) if wanted else None,
    )


def _attend(
    q: Tensor,
    recent: Tensor,
    sinks: Tensor,
    entries: Tensor | None,
    picks: Tensor | None,
    hidden: _Hidden,
    schedule: Schedule,
    scale: float,
    wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    """What the queries read, and the log-sum-exp of each softmax if it is wanted."""
    bands = _padded(recent, hidden.kept, schedule.look)

    def block_of(block: Block) -> tuple[Tensor, Tensor | None]:
        w = _weights(q, bands, sinks, entries, picks, hidden, schedule, block, scale, wanted=wanted)
        y = torch.bmm(w.near, w.keys.mT)
        if w.far is not None and w.others is not None:
            y = torch.baddbmm(y.view(len(w.far), -1, y.shape[-1]), w.far, w.others)
        return y.view(len(q), -1, *q.shape[2:]).to(q.dtype), w.lse

    # A function of its own: nothing of a block lives while the next one is made
    made = [block_of(block) for block in schedule.blocks]
    parts, lses = [y for y, _ in made], [lse for _, lse in made if lse is not None]
    out, lse = (torch.cat(p, 1) if len(p) > 1 else p[0] if p else None for p in (parts, lses))
    assert out is not None
    return out, lse


class _SparseAttention(torch.autograd.Function):
    """Keeps its operands and its result; the weights of a block are computed again for the gradient."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor | tuple[Tensor, Tensor]:
        out, lse = kept(_attend, *operands)
        ctx.save_for_backward(*operands[:5], out)
        ctx.hidden, ctx.schedule, ctx.scale, _ = operands[5:]
        if lse is None:
            return out
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, recent, sinks, entries, picks, out = ctx.saved_tensors
        wide, schedule, scale = torch.promote_types(q.dtype, torch.float32), ctx.schedule, ctx.scale
        bands = _padded(recent, ctx.hidden.kept, schedule.look)
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        # Bands overlap; the last may reach over the end when it is cut into parts that do not.
        spare = max(block.rows for block in schedule.blocks)
        dbands = torch.zeros_like(F.pad(bands[0], (0, 0, 0, spare)), dtype=wide)
        dsinks = torch.zeros_like(sinks, dtype=wide)
        dentries = None if entries is None else torch.zeros_like(entries, dtype=wide)

        def add_block(block: Block) -> None:
            w = _weights(q, bands, sinks, entries, picks, ctx.hidden, schedule, block, scale)
            dy = grad[:, block.start : block.stop].to(wide)
            mean = (dy * out[:, block.start : block.stop].to(wide)).sum(-1, keepdim=True)
            # d logit = weight * (d weight - mean); the sink's value is zero, so its d weight is.
            dsinks.sub_((w.sink * mean[..., 0]).sum((0, 1)))
            dy, mean = dy.reshape(w.q.shape), mean.view(*w.q.shape[:2], 1)
            dnear = torch.baddbmm(mean, dy, w.keys, beta=-scale, alpha=scale).mul_(w.near)
            drows = torch.bmm(dnear, w.keys.mT)
            dkeys = torch.baddbmm(torch.bmm(w.near.mT, dy), dnear.mT, w.q)
            _add_bands(dbands, dkeys.view(len(q), -1, *dkeys.shape[1:]), bands[1] + block.start, block.rows)
            if w.far is not None and w.others is not None and entries is not None and dentries is not None:
                shape = (*w.far.shape[:2], q.shape[-1])
                rows, dy, mean = w.q.reshape(shape), dy.reshape(shape), mean.view(*shape[:2], 1)
                dfar = torch.baddbmm(mean, dy, w.others.mT, beta=-scale, alpha=scale).mul_(w.far)
                drows = torch.baddbmm(drows.view(shape), dfar, w.others)
                dothers = torch.baddbmm(torch.bmm(w.far.mT, dy), dfar.mT, rows)
                if picks is not None and schedule.gathered:
                    chosen = _rows_of(picks[:, block.start : block.stop], entries)
                    dentries.view(-1, shape[-1]).index_add_(0, chosen, dothers.flatten(0, 1))
                else:
                    dentries[:, : block.entries] += dothers
            dq[:, block.start : block.stop] = drows.view(len(q), -1, *q.shape[2:])

        for block in schedule.blocks:
            add_block(block)
        begin = bands[1] + schedule.look - ctx.hidden.kept
        drecent = dbands[:, begin : begin + recent.shape[1]].to(recent.dtype)
        dentries = None if entries is None or dentries is None else dentries.to(entries.dtype)
        return dq, drecent, dsinks.to(sinks.dtype), dentries, None, None, None, None, None


def _add_bands(total: Tensor, parts: Tensor, start: int, rows: int) -> None:
    """Adds the rows of bands, parts [B, bands, m, D], to those of total [B, R, D] that they are: band i begins with
    ``start + i * rows``.
    """
    bands = parts.shape[1]
    for left in range(0, parts.shape[2], rows):
        piece = parts[:, :, left : left + rows]
        begin = start + left
        total[:, begin : begin + bands * rows].unflatten(1, (bands, rows))[:, :, : piece.shape[2]] += piece
