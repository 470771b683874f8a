"""Choosing experts, and running them."""

from __future__ import annotations

import ast

from archc.ops.base import BYTES, Cost, Op, ParamSpec, Type, Workload, expr, need, numel
from archc.ops.row import RowOp


class SqrtSoftplus(RowOp):
    """sqrt(log(1 + exp(x))): the affinities of DeepSeek-V4."""

    needs = {"F": "torch.nn.functional"}
    island = True

    def code(self, x: ast.expr) -> ast.expr:
        return expr("F.softplus(x).sqrt()", x=x)


class GroupMask(RowOp):
    """Scores [..., E] with all but the ``keep`` best of ``groups`` groups at -inf; a group is worth the sum of its
    ``best`` largest.
    """

    needs = {"group_mask": "kernels.group_mask"}
    island = True
    groups: int
    keep: int
    best: int = 2

    def infer(self, scores: Type) -> Type:
        need(scores.last % self.groups == 0, f"{self.groups} groups do not divide {scores.last} experts")
        need(0 < self.keep <= self.groups, f"keeps {self.keep} of {self.groups} groups")
        return scores

    def code(self, scores: ast.expr) -> ast.expr:
        best = None if self.best == 2 else self.best
        return expr(
            "group_mask(scores, groups=groups, keep=keep, best=best)",
            scores=scores,
            groups=self.groups,
            keep=self.keep,
            best=best,
        )


class Topk(RowOp):
    """Indices of the k largest of the last dim, largest first, ties to the lower index [..., k]."""

    needs = {"topk_lowest": "kernels.topk_lowest"}
    k: int

    def infer(self, x: Type) -> Type:
        need(0 < self.k <= x.last, f"chooses {self.k} of {x.last}")
        return Type((*x.shape[:-1], self.k), "int")

    def code(self, x: ast.expr) -> ast.expr:
        return expr("topk_lowest(x, k)", x=x, k=self.k)


class Gather(RowOp):
    """The elements of the last dim that ids [..., k] name."""

    def infer(self, x: Type, ids: Type) -> Type:
        need(x.shape[:-1] == ids.shape[:-1], f"takes {ids} of {x}")
        return Type(ids.shape, x.dtype)

    def code(self, x: ast.expr, ids: ast.expr) -> ast.expr:
        return expr("x.gather(-1, ids)", x=x, ids=ids)


class Lookup(Op):
    """Rows of a table [V, ...] that is not learned: table[ids] [*ids, ...]."""

    def infer(self, table: Type, ids: Type) -> Type:
        return Type((*ids.shape, *table.shape[1:]), table.dtype)

    def cost(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        """Only the rows that are named are read."""
        rows = numel(outs[0].shape, w) * BYTES[outs[0].dtype]
        return Cost(read=rows + numel(ins[1].shape, w) * BYTES["int"], written=rows)

    def code(self, table: ast.expr, ids: ast.expr) -> ast.expr:
        return expr("table[ids]", table=table, ids=ids)


class Experts(Op):
    """Each token through its experts, gated feed-forwards of ``hidden`` channels, weighted and summed [..., D].

    x [..., D], ids and weights [..., K]. One op: which rows meet is known only at run time.
    """

    needs = {"experts": "kernels.experts"}
    count: int
    hidden: int
    limit: float | None = None

    def params(self, name: str | None, x: Type, ids: Type, weights: Type) -> tuple[ParamSpec, ...]:
        under = f"{name}." if name else ""
        share = (ids.last, self.count)
        return (
            ParamSpec(
                name=f"{under}gate_up_proj", shape=(self.count, 2 * self.hidden, x.last), role="experts", share=share
            ),
            ParamSpec(name=f"{under}down_proj", shape=(self.count, x.last, self.hidden), role="experts", share=share),
        )

    def infer(self, x: Type, ids: Type, weights: Type, *params: Type) -> Type:
        need(
            ids.shape == weights.shape and ids.shape[:-1] == x.shape[:-1],
            f"experts {ids} with weights {weights} for {x}",
        )
        need(ids.last <= self.count, f"{ids.last} experts per token of {self.count}")
        return x

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        n = 2 * numel(ins[1].shape, w) * 3 * self.hidden * ins[0].last
        return n, n, 2 * n

    def cost(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        """As by default, but only the experts that some token chose are read: those expected if every choice is as
        likely.
        """
        whole = super().cost(w, ins, outs)
        chosen = 1 - (1 - ins[1].last / self.count) ** numel(ins[1].shape[:-1], w)
        idle = round((1 - chosen) * sum(numel(t.shape, w) * BYTES[t.dtype] for t in ins[3:]))
        return Cost(
            executed=whole.executed,
            useful=whole.useful,
            backward=whole.backward,
            read=whole.read - idle,
            written=whole.written,
        )

    def code(self, x: ast.expr, ids: ast.expr, weights: ast.expr, gate_up: ast.expr, down: ast.expr) -> ast.expr:
        return expr(
            "experts(x, ids, weights, gate_up, down, limit=limit)",
            x=x,
            ids=ids,
            weights=weights,
            gate_up=gate_up,
            down=down,
            limit=self.limit,
        )
