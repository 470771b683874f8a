"""Choosing experts, and running them."""

from __future__ import annotations

import ast
import math

from archc.ops.base import Op, ParamSpec, Type, Workload, expr, need, numel, size
from archc.ops.row import RowOp
from archc.ops.tape import Tape, Tensor

SORTED_WHOLE = 512
"""Elements up to which `topk_lowest` sorts all."""


class SqrtSoftplus(RowOp):
    """sqrt(log(1 + exp(x))): the affinities of DeepSeek-V4."""

    needs = {"sqrt_softplus": "kernels.sqrt_softplus"}
    island = True

    def run(self, t: Tape, x: Tensor) -> Tensor:
        low = t.scaled(t.of_input(x))
        buffer = t.new(x.shape, x.width)
        root = t.of_result(t.scaled(t.pointwise(low, kept=(low, buffer))))
        small = t.of_result(t.scaled(t.of_input(x)))
        return t.pointwise(small, root, kept=(t.new(x.shape, 1),))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("sqrt_softplus(x)", x=x)


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

    def run(self, t: Tape, scores: Tensor) -> Tensor:
        return t.masked(scores, t.new(scores.shape, 1))

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

    def run(self, t: Tape, x: Tensor) -> Tensor:
        """Of few elements all are sorted, and the first are a view of them."""
        if x.numel <= SORTED_WHOLE:
            return t.narrow(t.new(x.shape, 8), -1, self.k)
        return t.new((*x.shape[:-1], self.k), 8)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("topk_lowest(x, k)", x=x, k=self.k)


class Gather(RowOp):
    """The elements of the last dim that ids [..., k] name."""

    def infer(self, x: Type, ids: Type) -> Type:
        need(x.shape[:-1] == ids.shape[:-1], f"takes {ids} of {x}")
        return Type(ids.shape, x.dtype)

    def run(self, t: Tape, x: Tensor, ids: Tensor) -> Tensor:
        return t.made_of(t.new(ids.shape, x.width), (x,), (x, ids))

    def code(self, x: ast.expr, ids: ast.expr) -> ast.expr:
        return expr("x.gather(-1, ids)", x=x, ids=ids)


class Lookup(Op):
    """Rows of a table [V, ...] that is not learned: table[ids] [*ids, ...]."""

    def infer(self, table: Type, ids: Type) -> Type:
        return Type((*ids.shape, *table.shape[1:]), table.dtype)

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Only the rows that are named are read."""
        return min(1.0, numel(outs[0].shape, w) / numel(ins[0].shape, w)), 1.0

    def run(self, t: Tape, table: Tensor, ids: Tensor) -> Tensor:
        return t.new((*ids.shape, *table.shape[1:]), table.width)

    def code(self, table: ast.expr, ids: ast.expr) -> ast.expr:
        return expr("table[ids]", table=table, ids=ids)


class Dispatch(Op):
    """The row of each token once for each of its experts [B*S*K, D], sorted by expert; which choice each row is, and
    where the rows of each expert end [experts].
    """

    needs = {"dispatch": "kernels.expert_rows"}
    lowers = True
    experts: int

    def infer(self, x: Type, ids: Type) -> tuple[Type, Type, Type]:
        need(ids.shape[:-1] == x.shape[:-1], f"experts {ids} for {x}")
        need(ids.last <= self.experts, f"{ids.last} experts per token of {self.experts}")
        rows = math.prod(ids.shape[1:], start=ids.shape[0])
        return Type((rows, x.last), x.dtype), Type((rows,), "int"), Type((self.experts,), "int")

    def run(self, t: Tape, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = t.new((ids.numel,), 8)
        tokens = t.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        rows = t.made_of(t.new((ids.numel, x.shape[-1]), x.width), (tokens,), (order,))
        return rows, order, t.new((self.experts,), 4)

    def code(self, x: ast.expr, ids: ast.expr) -> ast.expr:
        return expr("dispatch(x, ids, experts=experts)", x=x, ids=ids, experts=self.experts)


class GroupedLinear(Op):
    """Rows [R, in] -> rows @ weight[e].T (+ bias[e]) [R, out], e the expert of a row. Each token has ``active`` rows.

    One op: which rows meet is known only at run time. ``inputs_first`` stores weights as [experts, in, out].
    """

    needs = {"grouped_linear": "kernels.grouped_linear"}
    lowers = True
    out: int
    active: int
    bias: bool = False
    inputs_first: bool = False

    def params(self, name: str | None, x: Type, ends: Type) -> tuple[ParamSpec, ...]:
        need(name is not None, "a linear map needs a name")
        experts = ends.last
        shape = (experts, x.last, self.out) if self.inputs_first else (experts, self.out, x.last)
        share = (self.active, experts)
        weight = ParamSpec(name=f"{name}", shape=shape, role="experts", share=share)
        bias = ParamSpec(name=f"{name}_bias", shape=(experts, self.out), role="bias", init="zeros", share=share)
        return (weight, bias) if self.bias else (weight,)

    def infer(self, x: Type, ends: Type, *params: Type) -> Type:
        need(self.out > 0, f"a linear map to {self.out} channels")
        return Type((*x.shape[:-1], self.out), x.dtype)

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        n = 2 * numel(outs[0].shape, w) * ins[0].last
        return n, n, 2 * n

    def chosen(self, experts: int, tokens: float) -> float:
        """The share of the experts that some of ``tokens`` chose: that expected if every choice is as likely."""
        return 1 - (1 - self.active / experts) ** tokens

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Only the experts that some token chose are read."""
        chosen = self.chosen(ins[1].last, size(ins[0].shape[0], w) // self.active)
        return 1.0, 1.0, *(chosen for _ in ins[2:])

    def run(self, t: Tape, x: Tensor, ends: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        out = t.new((*x.shape[:-1], self.out), x.width)
        t.product(out)
        return t.made_of(out, (x, weight, *bias), (x, weight, ends))

    def code(self, x: ast.expr, ends: ast.expr, weight: ast.expr, *bias: ast.expr) -> ast.expr:
        weight = expr("weight.mT", weight=weight) if self.inputs_first else weight
        return expr("grouped_linear(x, weight, ends, *bias)", x=x, weight=weight, ends=ends, bias=bias)


class Combine(Op):
    """What the experts of a token give [B*S*K, D], times the token's weights [B, S, K], summed [B, S, D]."""

    needs = {"combine": "kernels.expert_rows"}

    def infer(self, y: Type, weights: Type, order: Type) -> Type:
        need(order.shape == y.shape[:1], f"rows {y} in the order of {order}")
        return Type((*weights.shape[:-1], y.last), y.dtype)

    def run(self, t: Tape, y: Tensor, weights: Tensor, order: Tensor) -> Tensor:
        flat = t.reshape(weights, (math.prod(weights.shape[:-1]), weights.shape[-1]))
        out = t.made_of(t.new((flat.shape[0], y.shape[-1]), y.width), (y, flat), (y, flat, order), work=2 * y.bytes)
        return t.reshape(out, (*weights.shape[:-1], y.shape[-1]))

    def code(self, y: ast.expr, weights: ast.expr, order: ast.expr) -> ast.expr:
        return expr("combine(y, weights, order)", y=y, weights=weights, order=order)
