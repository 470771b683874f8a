"""One entry out of several tokens: the compressors of DeepSeek-V4 (arXiv:2606.19348, section 2.3)."""

from __future__ import annotations

import ast

from archc.ops.base import B, Op, Type, expr, need
from archc.ops.tape import Tape, Tensor
from archc.ops.time import closing


class Groups(Op):
    """The tokens of each group of ``every`` that this call completes [B, G, n, ...], and which of them exist [B, G,
    n].

    Reads a `Recall`. With ``overlap`` the group before comes first, and n is 2 * every instead of every.
    """

    needs = {"groups": "kernels.groups"}
    every: int
    overlap: bool = False

    def infer(self, recent: Type, time: Type) -> tuple[Type, ...]:
        n = self.every * (1 + self.overlap)
        g = closing(self.every)
        return Type((B, g, n, *recent.shape[2:]), recent.dtype), Type((B, g, n), "bool")

    def run(self, t: Tape, recent: Tensor, time: None) -> tuple[Tensor, Tensor]:
        batch, new, *rest = recent.shape
        count = new // self.every
        held = t.narrow(recent, 1, count * self.every)
        tokens = t.reshape(held, (batch, count, self.every, *rest))
        exists = t.new((batch, count, 1), 1)
        if not self.overlap:
            return tokens, t.expand(exists, (batch, count, self.every))
        before = t.cat([t.new((batch, 1, *tokens.shape[2:]), recent.width), t.narrow(tokens, 1, count - 1)], 1)
        return t.cat([before, tokens], 2), t.new((batch, count, 2 * self.every), 1)

    def code(self, recent: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "groups(recent, time, every=every, overlap=overlap)",
            recent=recent,
            time=time,
            every=self.every,
            overlap=self.overlap,
        )


class GroupPool(Op):
    """The mean of each group's values, weighted by softmax(score + bias) over its tokens, channel by channel [B, G,
    C].

    With ``overlap`` the group before speaks with the first half of the channels, this group with the second.
    """

    needs = {"group_pool": "kernels.group_pool"}
    overlap: bool = False

    def infer(self, kv: Type, score: Type, exists: Type, bias: Type) -> Type:
        need(kv.shape == score.shape, f"pools {kv} by scores {score}")
        need(bias.last == kv.last, f"the position bias has {bias.last} channels, the values have {kv.last}")
        tokens = bias.fixed(0) * (1 + self.overlap)
        need(
            kv.shape[2] == tokens,
            f"the position bias is for groups of {bias.shape[0]} tokens, the values have {kv.shape[2]}",
        )
        need(not self.overlap or kv.last % 2 == 0, f"{kv.last} channels have no halves")
        return Type((*kv.shape[:2], kv.last // 2 if self.overlap else kv.last), kv.dtype)

    def run(self, t: Tape, kv: Tensor, score: Tensor, exists: Tensor, bias: Tensor) -> Tensor:
        narrow = kv.width
        kv, score, bias = (t.upcast(x) for x in (kv, score, bias))
        if self.overlap:
            half = kv.shape[-1] // 2
            parts = [t.narrow(x, 2, bias.shape[0]) for x in (score, score, kv, kv)]
            score = t.cat([t.narrow(t.add(x, bias), -1, half) for x in parts[:2]], 2)
            kv = t.cat([t.narrow(x, -1, half) for x in parts[2:]], 2)
        else:
            score = t.add(score, bias)
        missing = t.new((*exists.shape, 1), 1)
        weight = t.masked(t.of_result(t.masked(score, missing)), missing)
        return t.to(t.sum(t.mul(t.masked(kv, missing), weight), 2), narrow)

    def code(self, kv: ast.expr, score: ast.expr, exists: ast.expr, bias: ast.expr) -> ast.expr:
        return expr(
            "group_pool(kv, score, exists, bias, overlap=overlap)",
            kv=kv,
            score=score,
            exists=exists,
            bias=bias,
            overlap=self.overlap,
        )
