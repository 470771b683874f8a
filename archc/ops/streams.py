"""What hyper-connections do to residual streams, beyond matrix products."""

from __future__ import annotations

import ast

from archc.ops.base import Type, Workload, expr, need, numel
from archc.ops.row import RowOp


class Sinkhorn(RowOp):
    """[..., M, M] -> doubly stochastic: ``iters`` passes over rows (a softmax first) and columns, ending on
    columns; ``eps`` is added to every divisor, and to what the softmax gives.
    """

    needs = {"sinkhorn": "kernels.sinkhorn"}
    island = True
    iters: int
    eps: float

    def infer(self, x: Type) -> Type:
        need(len(x.shape) > 1 and x.shape[-1] == x.shape[-2], f"sinkhorn needs square matrices, got {x}")
        return x

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        """The reference sums rows and columns by products with matrices of zeros and ones, and with one column more
        for eps; the gradient runs them again, and as many of its own. Without eps it works on logarithms, by none.
        """
        (x,) = ins
        executed = 0 if self.eps == 0 else (2 * self.iters - 1) * 2 * numel(x.shape[:-2], w) * (x.last**2 + 1) ** 2
        return executed, 0, 2 * executed

    def code(self, x: ast.expr) -> ast.expr:
        return expr("sinkhorn(x, iters=iters, eps=eps)", x=x, iters=self.iters, eps=self.eps)


class Normalize(RowOp):
    """x / (sum of x over the last dim + eps)"""

    needs = {"normalize": "kernels.normalize"}
    island = True
    eps: float = 0.0

    def code(self, x: ast.expr) -> ast.expr:
        return expr("normalize(x, eps=eps)", x=x, eps=self.eps or None)


class Sum(RowOp):
    """Summed over ``dim`` (counted from the end, before the last)."""

    dim: int

    def infer(self, x: Type) -> Type:
        need(-len(x.shape) <= self.dim < -1, f"{x} has no dim {self.dim} before its last")
        shape = list(x.shape)
        del shape[self.dim]
        return Type(tuple(shape), x.dtype)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.sum(dim)", x=x, dim=self.dim)


class SignedSqrt(RowOp):
    """sign(x) * sqrt(max(|x|, floor))"""

    needs = {"signed_sqrt": "kernels.signed_sqrt"}
    floor: float

    def code(self, x: ast.expr) -> ast.expr:
        return expr("signed_sqrt(x, floor=floor)", x=x, floor=self.floor)
