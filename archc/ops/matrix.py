"""Matrix products."""

from __future__ import annotations

import ast
import math
from typing import ClassVar

from archc.ops.base import B, Op, ParamSpec, Role, S, Type, Workload, expr, need, numel, wider
from archc.ops.tape import Tape, Tensor

ROW_WEIGHT_LIMIT = 1 << 20
"""Weights above this many elements do not fit a row-wise kernel: their products stay matrix products."""


class Linear(Op):
    """x [..., in] -> x @ weight.T (+ bias) [..., out], with a weight of its own."""

    needs = {"Linear": "runtime.modules", "F": "torch.nn.functional"}
    lowers = True
    out: int
    bias: bool = False
    role: Role = "matrix"

    def params(self, name: str | None, x: Type) -> tuple[ParamSpec, ...]:
        need(name is not None, "a linear map needs a name")
        weight = ParamSpec(name=f"{name}.weight", shape=(self.out, x.last), role=self.role)
        bias = ParamSpec(name=f"{name}.bias", shape=(self.out,), role="bias", init="zeros")
        return (weight, bias) if self.bias else (weight,)

    def infer(self, x: Type, *params: Type) -> Type:
        need(self.out > 0, f"a linear map to {self.out} channels")
        return Type((*x.shape[:-1], self.out), x.dtype)

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        n = 2 * numel(outs[0].shape, w) * ins[0].last
        return n, n, 2 * n

    def run(self, t: Tape, x: Tensor, *params: Tensor) -> Tensor:
        return t.linear(x, *params)

    def code(self, x: ast.expr, *params: ast.expr) -> ast.expr:
        return expr("F.linear(x, *params)", x=x, params=params)

    def module(self, x: Type, *params: Type) -> ast.expr:
        return expr("Linear(i, o, bias=bias)", i=x.last, o=self.out, bias=self.bias)


class Project(Op):
    """x [..., in] -> x @ weight.T [..., out], with a weight [out, in] that something else owns."""

    needs = {"F": "torch.nn.functional"}
    uniform = True

    def infer(self, x: Type, weight: Type) -> Type:
        need(x.last == weight.last, f"projects {x.last} channels by a weight for {weight.last}")
        return Type((*x.shape[:-1], weight.shape[0]), wider(x, weight))

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        n = 2 * numel(outs[0].shape, w) * ins[0].last
        return n, n, 2 * n

    def row(self, x: Type, weight: Type) -> bool:
        return weight.fixed(0) * weight.last <= ROW_WEIGHT_LIMIT

    def run(self, t: Tape, x: Tensor, weight: Tensor) -> Tensor:
        return t.linear(x, weight)

    def code(self, x: ast.expr, weight: ast.expr) -> ast.expr:
        return expr("F.linear(x, weight)", x=x, weight=weight)


class Embedding(Op):
    """ids [B, S] -> rows of a table [B, S, dim]."""

    needs = {"Embedding": "runtime.modules", "F": "torch.nn.functional"}
    rows: int
    dim: int

    def params(self, name: str | None, ids: Type) -> tuple[ParamSpec, ...]:
        return (ParamSpec(name=f"{name}.weight", shape=(self.rows, self.dim), role="embedding"),)

    def infer(self, ids: Type, weight: Type) -> Type:
        return Type((*ids.shape, self.dim))

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Only the rows that are named are read."""
        return 1.0, min(1.0, numel(outs[0].shape, w) / numel(ins[1].shape, w))

    def run(self, t: Tape, ids: Tensor, weight: Tensor) -> Tensor:
        return t.embedding(ids, weight)

    def code(self, ids: ast.expr, weight: ast.expr) -> ast.expr:
        return expr("F.embedding(ids, weight)", ids=ids, weight=weight)

    def module(self, ids: Type, weight: Type) -> ast.expr:
        return expr("Embedding(rows, dim)", rows=self.rows, dim=self.dim)


class Embed(Op):
    """ids [B, S] -> rows [B, S, dim] of a table [rows, dim] that something else owns."""

    needs = {"F": "torch.nn.functional"}
    borrows = "embedding"

    def infer(self, ids: Type, table: Type) -> Type:
        return Type((*ids.shape, table.last), table.dtype)

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Only the rows that are named are read."""
        return 1.0, min(1.0, numel(outs[0].shape, w) / numel(ins[1].shape, w))

    def run(self, t: Tape, ids: Tensor, table: Tensor) -> Tensor:
        return t.embedding(ids, table)

    def code(self, ids: ast.expr, table: ast.expr) -> ast.expr:
        return expr("F.embedding(ids, table)", ids=ids, table=table)


class Einsum(Op):
    """A sum of products, in einsum notation."""

    needs = {"einsum": "kernels.einsum"}
    uniform = True
    spec: str
    keep: ClassVar[tuple] = (B, S)

    def _dims(self, ins: tuple[Type, ...]) -> dict:
        left, _ = self.spec.split("->")
        dims: dict = {}
        need(len(left.split(",")) == len(ins), f"einsum {self.spec} of {len(ins)} operands")
        for letters, t in zip(left.split(","), ins, strict=True):
            need(len(letters) == len(t.shape), f"einsum {self.spec}: {letters} does not fit {t}")
            for letter, d in zip(letters, t.shape, strict=True):
                need(dims.setdefault(letter, d) == d, f"einsum {self.spec}: {letter} is {dims[letter]} and {d}")
        return dims

    def infer(self, *ins: Type) -> Type:
        dims = self._dims(ins)
        return Type(tuple(dims[c] for c in self.spec.split("->")[1]), wider(*ins))

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        dims = self._dims(ins)
        n = 2 * numel(tuple(dims.values()), w)
        # PyTorch multiplies elementwise where nothing is summed: no product of matrices runs, forward or backward
        run = any(d != 1 for letter, d in dims.items() if letter not in self.spec.split("->")[1])
        return n * run, n, 2 * n * run

    def row(self, *ins: Type) -> bool:
        fixed = [s for t in ins if (s := tuple(d for d in t.shape if isinstance(d, int))) == t.shape]
        small = sum(math.prod(s) for s in fixed) <= ROW_WEIGHT_LIMIT
        return small and all(t.shape[:2] == self.keep or t.shape in fixed for t in ins)

    def run(self, t: Tape, *ins: Tensor) -> Tensor:
        """As PyTorch does it with two: permuted to [shared, own, summed], one batched product, permuted back."""
        left, out = self.spec.split("->")
        if len(ins) != 2:
            raise NotImplementedError
        (a, b), (x, y) = left.split(","), ins
        sizes = dict(zip(a + b, (*x.shape, *y.shape), strict=True))
        if all(sizes[c] == 1 for c in sizes if c not in out):  # nothing is summed: an elementwise product

            def spread(x: Tensor, letters: str) -> Tensor:
                at = [letters.find(c) for c in out]
                shape, strides = (tuple(0 if i < 0 else of[i] for i in at) for of in (x.shape, x.strides))
                return t.view(x, tuple(n or 1 for n in shape), strides)

            return t.mul(spread(x, a), spread(y, b))
        both = [c for c in out if c in a and c in b]
        of_a, of_b = ([c for c in out if c in one and c not in other] for one, other in ((a, b), (b, a)))
        summed = [c for c in a if c in b and c not in out]

        def matrices(t: Tape, x: Tensor, letters: str, *groups: list[str]) -> Tensor:
            moved = t.permute(x, [letters.index(c) for group in groups for c in group])
            return t.reshape(moved, tuple(math.prod(sizes[c] for c in group) for group in groups))

        z = t.matmul(matrices(t, x, a, both, of_a, summed), matrices(t, y, b, both, summed, of_b))
        order = [*both, *of_a, *of_b]
        return t.permute(t.reshape(z, tuple(sizes[c] for c in order)), [order.index(c) for c in out])

    def code(self, *ins: ast.expr) -> ast.expr:
        return expr("einsum(spec, *ins)", spec=self.spec, ins=ins)
