"""One entry out of several tokens: the compressors of DeepSeek-V4 (arXiv:2606.19348, section 2.3)."""

from __future__ import annotations

import ast

from archc.ops.base import B, Op, Type, expr, need
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

    def code(self, kv: ast.expr, score: ast.expr, exists: ast.expr, bias: ast.expr) -> ast.expr:
        return expr(
            "group_pool(kv, score, exists, bias, overlap=overlap)",
            kv=kv,
            score=score,
            exists=exists,
            bias=bias,
            overlap=self.overlap,
        )
