"""An index search in two stages: blocks of entries first, then entries inside the chosen blocks (HISA,
arXiv:2603.28458).
"""

from __future__ import annotations

import ast
from dataclasses import replace

from archc.ops.base import Op, Type, Workload, expr, need, numel, size
from archc.ops.schedules import schedule
from archc.ops.sparse import IndexTopk, visible_entries
from archc.ops.tape import Tape, Tensor
from archc.ops.time import closing


def searched(w: Workload, *, every: int, block: int, keep: int) -> int:
    """Pairs over all rows of a query and what a search in two stages has to score: all entries that a token sees where
    that are ``keep`` blocks at most; else the keys of its blocks but the first and the newest, and the entries of
    ``keep`` blocks, the newest of them perhaps unfinished.
    """
    end = w.past + w.new
    bend = min(max((keep * block + 1) * every - 1, w.past), end)  # tokens from here on see more blocks
    flat, rest = replace(w, new=bend - w.past), replace(w, past=bend, new=end - bend)
    found = visible_entries(flat, every) if flat.new else 0
    if not rest.new:
        return found
    before = visible_entries(replace(rest, past=bend - every), every * block)  # blocks before the newest
    inside = visible_entries(rest, every) - block * before
    return found + before + inside + rest.batch * rest.new * ((keep - 1) * block - 1)


class BlockMeans(Op):
    """The mean of the keys of each block of ``block`` entries that this call completes [B, G, D], of the keys of all
    entries so far [B, E, D], one for ``every`` tokens. A constant.
    """

    needs = {"block_means": "kernels.block_means"}
    block: int
    every: int = 1

    def infer(self, keys: Type, time: Type) -> Type:
        need(len(keys.shape) == 3, f"one key for each entry, got {keys}")
        return Type((keys.shape[0], closing(self.every * self.block), keys.last), keys.dtype)

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """It reads the entries of blocks that close."""
        entries = numel(ins[0].shape[:2], w)
        return min(1.0, self.block * numel(outs[0].shape[:2], w) / entries) if entries else 1.0, 1.0

    def run(self, t: Tape, keys: Tensor, time: None) -> Tensor:
        (batch, _, channels), count = keys.shape, t.w.new // (self.every * self.block)
        wide = max(4, keys.width)
        held = batch * count * self.block * channels
        t.use(wide * (held * (keys.width < wide) + batch * count * channels))
        return t.new((batch, count, channels), keys.width)

    def code(self, keys: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "block_means(keys, time, block=block, every=every)",
            keys=keys,
            time=time,
            block=self.block,
            every=None if self.every == 1 else self.every,
        )


class TwoStageTopk(IndexTopk):
    """`IndexTopk` among the entries of ``keep`` blocks of ``block`` entries: the first one, the newest, and those whose
    keys [B, E // block, D] (`BlockMeans`), given after those of entries, have the best scores.

    A token that sees no more blocks than are kept picks among all entries that it sees.
    """

    needs = {"two_stage_topk": "kernels.two_stage_topk"}
    block: int
    keep: int

    def infer(self, q: Type, keys: Type, means: Type, weights: Type, time: Type) -> Type:  # pyright: ignore[reportIncompatibleMethodOverride]
        need(means.last == keys.last, f"block keys have {means.last} channels, index keys {keys.last}")
        need(self.keep > 1, f"keeps {self.keep} block; the first and the newest are always kept")
        return super().infer(q, keys, weights, time)

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, keys = ins[:2]
        heads = q.fixed(2)
        pairs = schedule("sparse_blocks").two_stage_pairs(
            batch=w.batch,
            heads=heads,
            width=q.last,
            past=w.past,
            new=w.new,
            every=self.every,
            entries=size(keys.shape[1], w),
            block=self.block,
            keep=self.keep,
        )
        useful = searched(w, every=self.every, block=self.block, keep=self.keep)
        return 2 * heads * (q.last + 1) * w.batch * pairs, 2 * heads * q.last * useful, 0

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Of entries it reads those of the blocks that are kept for some query."""
        entries = size(ins[1].shape[1], w)
        few = w.new * self.keep * self.block
        return (1.0, min(1.0, few / entries) if entries else 1.0, *(1.0,) * (len(ins) - 2))

    def run(self, t: Tape, q: Tensor, keys: Tensor, means: Tensor, weights: Tensor, time: None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        picks = t.new((*q.shape[:2], min(self.k, keys.shape[1])), 8)
        t.product(picks)
        t.use_once(self._searching(q, keys))
        return picks

    def _searching(self, q: Tensor, keys: Tensor) -> int:
        """Bytes of the largest block: scores of block keys and what chooses among them, then gathered keys and their
        products, or scores and what orders them.
        """
        (batch, new, heads, width), wide, entries = q.shape, max(4, q.width), keys.shape[1]
        flat, blocks = schedule("sparse_blocks").two_stage_blocks(
            batch=batch,
            heads=heads,
            width=width,
            past=0,
            new=new,
            every=self.every,
            entries=entries,
            block=self.block,
            keep=self.keep,
        )
        casts, columns = q.width < wide, self.keep * self.block
        most = self._work(q, keys, flat, min(entries, flat // self.every)) if flat else 0
        held = casts * wide * batch * (entries // self.block) * width
        for start, stop, seen in blocks:
            n = batch * (stop - start)
            rows = wide * n * heads * width * (casts or (batch > 1 and stop - start < new))
            coarse = n * seen
            choosing = wide * 3 * coarse + 20 * coarse + 16 * n * self.keep
            ids, gathered = 8 * n * columns, n * columns * width * (q.width + wide * casts)
            scoring = wide * n * columns * (heads + 1) + gathered
            ordering = gathered + wide * 2 * n * columns + 20 * n * columns + 16 * n * min(self.k, columns)
            coarsely = wide * coarse * (heads + 1)
            most = max(most, held + rows + max(coarsely, choosing, 2 * ids + max(scoring, ordering)))
        return most

    def code(self, q: ast.expr, keys: ast.expr, means: ast.expr, weights: ast.expr, time: ast.expr) -> ast.expr:  # pyright: ignore[reportIncompatibleMethodOverride]
        return expr(
            "step.pick(two_stage_topk, q, keys, means, weights, time, k=k, block=block, keep=keep, every=every)",
            q=q,
            keys=keys,
            means=means,
            weights=weights,
            time=time,
            k=self.k,
            block=self.block,
            keep=self.keep,
            every=None if self.every == 1 else self.every,
        )
