"""Attention over blocks of tokens: entries made of overlapping ones, and tokens of the best (Native Sparse Attention,
arXiv:2502.11089, section 3.3).
"""

from __future__ import annotations

import ast
from typing import Literal

from archc.ops.base import B, Dim, Op, S, Size, T, Type, Workload, expr, need, size
from archc.ops.schedules import schedule
from archc.ops.sparse import visible_entries
from archc.ops.tape import Tape, Tensor
from archc.ops.time import closing


def block_pairs(w: Workload, size: int, count: int) -> int:
    """Query-token pairs over all rows: token t sees the first t // size + 1 blocks of ``size`` tokens up to itself, or
    ``count`` where that is less, its own among them.
    """

    def below(n: int) -> int:
        """The sum over the first n tokens."""
        few = min(n, count * size)  # these see all tokens up to themselves
        whole, rest = divmod(n - few, size)
        inside = whole * size * (size + 1) // 2 + rest * (rest + 1) // 2
        return few * (few + 1) // 2 + (n - few) * (count - 1) * size + inside

    return w.batch * (below(w.past + w.new) - below(w.past))


def grouped(heads: Size, groups: Size) -> None:
    """Raises `ShapeError` unless key heads divide query heads."""
    whole = isinstance(heads, int) and isinstance(groups, int) and heads % groups == 0
    need(whole, f"{groups} key heads do not divide {heads} query heads")


class TokenBlocks(Op):
    """The last ``size`` tokens up to the end of each group of ``every`` that this call completes, side by side: [B, G,
    H, size * D].

    Reads a `Recall` [B, R, H, D] that reaches back over size - 1 tokens. ``size`` is a multiple of ``every``; blocks
    that begin before their sequence hold arbitrary numbers.
    """

    needs = {"token_blocks": "kernels.token_blocks"}
    every: int
    size: int

    def infer(self, recent: Type, time: Type) -> Type:
        need(len(recent.shape) == 4, f"blocks are of tokens with heads, got {recent}")
        need(self.size % self.every == 0, f"blocks of {self.size} tokens do not end every {self.every}")
        return Type((B, closing(self.every), recent.shape[2], self.size * recent.last), recent.dtype)

    def run(self, t: Tape, recent: Tensor, time: None) -> Tensor:
        batch, new, heads, channels = recent.shape
        count = new // self.every
        if not count:
            return t.made_of(t.new((batch, 0, heads, self.size * channels), recent.width), (recent,))
        held = t.narrow(recent, 1, count * self.every)
        shape = (batch, count * self.every + self.size - self.every, heads, channels)
        padded = t.made_of(t.new(shape, recent.width), (held,), passes=True)
        row, step, near, one = padded.strides
        pieces = t.view(
            padded, (batch, count, heads, self.size, channels), (row, self.every * step, near, step, one), whole=False
        )
        return t.reshape(pieces, (batch, count, heads, self.size * channels))

    def code(self, recent: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "token_blocks(recent, time, every=every, size=size)",
            recent=recent,
            time=time,
            every=self.every,
            size=self.size,
        )


class CompressedAttention(Op):
    """softmax(q k^T * scale) v over the entries a token sees [B, S, H, V], and ids of the blocks of ``select`` tokens
    that each group of heads gives most weight [B, S, G, min(count, blocks)], -1 where there are fewer.

    q [B, S, H, D], keys [B, E, G, D] and values [B, E, G, V], one per ``every`` tokens, of the ``size`` tokens up to
    its end: of the first size / every - 1 groups there are none. Query head h reads key head h * G // H. A block is
    worth what its entries weigh, as ``mapping`` spreads that (equation 9); the first ``initial`` blocks and the
    ``local`` last ones, the query's own included, are always chosen. A choice has no gradient.
    """

    fused = "attention"
    needs = {"compressed_attention": "kernels.compressed_attention"}
    scale: float
    every: int
    size: int
    select: int
    count: int
    initial: int
    local: int
    mapping: Literal["overlap", "minus", "plus"] = "overlap"

    def infer(self, q: Type, keys: Type, values: Type, time: Type) -> tuple[Type, ...]:
        need(q.last == keys.last, f"queries have {q.last} channels, keys {keys.last}")
        need(keys.shape[:3] == values.shape[:3], f"keys {keys} and values {values}")
        grouped(q.shape[2], keys.shape[2])
        for name, length in (("size", self.size), ("select", self.select)):
            need(length % self.every == 0, f"{name} = {length} tokens are no multiple of every = {self.every}")

        blocks = (T + (self.select - 1)) // self.select
        many = Dim(f"min({self.count}, {blocks})", lambda w: min(self.count, size(blocks, w)))
        return Type((*q.shape[:-1], values.last), q.dtype), Type((B, S, keys.shape[2], many), "int")

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, keys, values = ins[:3]
        heads, lead = q.fixed(2), self.size // self.every - 1
        pairs = w.batch * schedule("sparse_blocks").index_pairs(
            batch=w.batch, heads=heads, past=w.past, new=w.new, every=self.every, entries=size(keys.shape[1], w)
        )
        useful = visible_entries(w, self.every) - visible_entries(w, self.every, lead)
        both = 2 * heads * (q.last + values.last)
        # The gradient computes the weights again: five products, three as wide as keys and two as wide as values.
        return pairs * both, useful * both, pairs * 2 * heads * (3 * q.last + 2 * values.last)

    def run(self, t: Tape, q: Tensor, keys: Tensor, values: Tensor, time: None) -> tuple[Tensor, Tensor]:
        (batch, new, heads, _), groups, wide = q.shape, keys.shape[2], max(4, q.width)
        out = t.new((batch, new, heads, values.shape[-1]), q.width)
        picks = t.new((batch, new, groups, min(self.count, -(-new // self.select))), 8)
        t.product(out, picks)
        forward, backward = self._work(q, keys, values)
        t.use(wide * forward)
        ins = (q, keys, values)
        return t.made_of(out, ins, (*ins, out), work=wide * backward), picks

    def _work(self, q: Tensor, keys: Tensor, values: Tensor) -> tuple[int, int]:
        """Numbers of the largest block, forward and backward, beside wide copies of keys and values."""
        (batch, new, heads, width), (entries, groups, _), value = q.shape, keys.shape[1:], values.shape[-1]
        blocks = schedule("sparse_blocks").index_blocks(
            batch=batch, heads=heads, past=0, new=new, every=self.every, entries=entries
        )
        laid = groups > 1 or batch > 1 or q.width < 4
        copies = (keys.numel + values.numel) * laid
        forward = backward = 0
        for start, stop, seen in blocks:
            n = stop - start
            weights, rows = batch * n * heads * seen, batch * n * heads
            pieces = self.select // self.every
            scores = batch * n * groups * pieces * -(-stop // self.select)
            attended = rows * width + max(2 * weights, weights + rows * value, weights + weights // 4)
            chosen = weights + 4 * scores
            forward = max(forward, attended, chosen)
            slope = rows * (width + 2 * value) + 2 * weights
            backward = max(backward, slope + max(rows * value, rows * width, batch * groups * seen * max(width, value)))
        return copies + forward, 2 * copies + backward

    def code(self, q: ast.expr, keys: ast.expr, values: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "compressed_attention(q, keys, values, time, scale=scale, every=every, size=size, select=select,"
            " count=count, initial=initial, local=local, mapping=mapping)",
            q=q,
            keys=keys,
            values=values,
            time=time,
            scale=self.scale,
            every=self.every,
            size=self.size,
            select=self.select,
            count=self.count,
            initial=self.initial,
            local=self.local,
            mapping=None if self.mapping == "overlap" else self.mapping,
        )


class BlockAttention(Op):
    """softmax(q k^T * scale) v over the tokens of chosen blocks, the query's own and those before it: [B, S, H, V].

    q [B, S, H, D], keys [B, T, G, D] and values [B, T, G, V] of all tokens so far; query head h reads key head h * G //
    H; picks [B, S, G, K] are ids of blocks of ``size`` tokens, -1 for none.
    """

    fused = "attention"
    needs = {"block_attention": "kernels.block_attention"}
    scale: float
    size: int

    def infer(self, q: Type, keys: Type, values: Type, picks: Type, time: Type) -> Type:
        need(q.last == keys.last, f"queries have {q.last} channels, keys {keys.last}")
        need(keys.shape[:3] == values.shape[:3], f"keys {keys} and values {values}")
        grouped(q.shape[2], keys.shape[2])
        need(picks.shape[:3] == (*q.shape[:2], keys.shape[2]), f"picks {picks} for key heads of {keys}")
        return Type((*q.shape[:-1], values.last), q.dtype)

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, _, values, picks = ins[:4]
        heads, many = q.fixed(2), size(picks.shape[3], w)
        pairs = w.batch * w.new * many * self.size
        both = 2 * heads * (q.last + values.last)
        # The gradient computes the weights again: five products, three as wide as keys and two as wide as values.
        backward = pairs * 2 * heads * (3 * q.last + 2 * values.last)
        return pairs * both, block_pairs(w, self.size, many) * both, backward

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Of keys and values only those of picked blocks are read."""
        part = min(1.0, w.new * size(ins[3].shape[3], w) * self.size / w.total)
        return 1.0, part, part, 1.0, 1.0

    def run(self, t: Tape, q: Tensor, keys: Tensor, values: Tensor, picks: Tensor, time: None) -> Tensor:
        out = t.new((*q.shape[:3], values.shape[-1]), q.width)
        t.product(out)
        forward, backward = self._work(q, keys, values, picks)
        t.use(forward)
        ins = (q, keys, values)
        return t.made_of(out, ins, (*ins, picks, out), work=backward)

    def _work(self, q: Tensor, keys: Tensor, values: Tensor, picks: Tensor) -> tuple[int, int]:
        """Bytes of the largest block, forward and backward, beside wide gradients of keys and values."""
        (batch, new, heads, width), (groups, many), wide = q.shape, picks.shape[2:], max(4, q.width)
        value, columns = values.shape[-1], many * self.size
        blocks = schedule("sparse_blocks").picked_blocks(
            batch=batch, heads=heads, groups=groups, width=max(width, value), new=new, columns=columns
        )
        n = max(stop - start for start, stop in blocks)
        met, weights, rows = batch * n * groups * columns, batch * n * heads * columns, batch * n * heads
        narrow, ids = q.width < 4, met * 17
        casts = rows * width * (narrow or (batch > 1 and n < new))
        forward = (
            ids
            + 8 * met * (batch > 1)
            + wide * (casts + weights + met * max(width + weights // max(1, met), value) + rows * value)
        )
        slope = met * (width + value) + 2 * weights + rows * (2 * value * narrow + value) + casts
        backward = ids + wide * (slope + met * max(width, value))
        return forward, backward + wide * (keys.numel + values.numel)

    def code(self, q: ast.expr, keys: ast.expr, values: ast.expr, picks: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "block_attention(q, keys, values, picks, time, scale=scale, size=size)",
            q=q,
            keys=keys,
            values=values,
            picks=picks,
            time=time,
            scale=self.scale,
            size=self.size,
        )


__all__ = ["BlockAttention", "CompressedAttention", "TokenBlocks", "block_pairs"]
