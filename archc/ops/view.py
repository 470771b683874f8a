"""Operations that only regroup elements."""

from __future__ import annotations

import ast
import math

from archc.ops.base import Op, Type, Workload, expr, need
from archc.ops.tape import Tape, Tensor


class View(Op, abstract=True):
    """Base of the family."""

    view = True

    def row(self, *ins: Type) -> bool:
        return True


class Unflatten(View):
    """[..., a * b] -> [..., a, b]"""

    sizes: tuple[int, ...]

    def infer(self, x: Type) -> Type:
        need(math.prod(self.sizes) == x.last, f"{' x '.join(map(str, self.sizes))} is not {x.last}")
        return Type((*x.shape[:-1], *self.sizes), x.dtype)

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.reshape(x, (*x.shape[:-1], *self.sizes))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.unflatten(-1, sizes)", x=x, sizes=self.sizes)


class UnflattenRows(View):
    """[n * r, ...] -> [n, r, ...], of a parameter"""

    n: int

    def infer(self, x: Type) -> Type:
        rows = x.shape[0]
        need(isinstance(rows, int) and rows % self.n == 0, f"{self.n} groups do not divide {rows} rows")
        return Type((self.n, rows // self.n, *x.shape[1:]), x.dtype)

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.reshape(x, (self.n, x.shape[0] // self.n, *x.shape[1:]))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.unflatten(0, sizes)", x=x, sizes=(self.n, -1))


class Flatten(View):
    """[..., a, b] -> [..., a * b]"""

    def infer(self, x: Type) -> Type:
        return Type((*x.shape[:-2], x.shape[-2] * x.last), x.dtype)

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.flatten(-2)", x=x)


class Detach(View):
    """The same values as constants: no gradient goes further back."""

    constant = True

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return Tensor(x.storage, x.shape, x.strides, x.width)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.detach()", x=x)


class Split(View):
    """[..., a + b] -> [..., a], [..., b]"""

    sizes: tuple[int, ...]

    def infer(self, x: Type) -> tuple[Type, ...]:
        need(sum(self.sizes) == x.last, f"{' + '.join(map(str, self.sizes))} is not {x.last}")
        return tuple(Type((*x.shape[:-1], n), x.dtype) for n in self.sizes)

    def run(self, t: Tape, x: Tensor) -> tuple[Tensor, ...]:
        return t.split(x, self.sizes)

    def code(self, x: ast.expr) -> ast.expr:
        if len(set(self.sizes)) == 1:
            return expr("x.chunk(n, -1)", x=x, n=len(self.sizes))
        return expr("x.split(sizes, -1)", x=x, sizes=list(self.sizes))


class Unbind(View):
    """[..., n] -> n values [...]"""

    def infer(self, x: Type) -> tuple[Type, ...]:
        return tuple(Type(x.shape[:-1], x.dtype) for _ in range(x.last))

    def run(self, t: Tape, x: Tensor) -> tuple[Tensor, ...]:
        return t.unbind(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.unbind(-1)", x=x)


class Cat(Op):
    """Values side by side in the last dim."""

    needs = {"torch": "torch"}

    def infer(self, *xs: Type) -> Type:
        need(len({x.shape[:-1] for x in xs}) == 1, f"side by side: {' and '.join(map(str, xs))}")
        return Type((*xs[0].shape[:-1], sum(x.last for x in xs)), xs[0].dtype)

    def row(self, *ins: Type) -> bool:
        return True

    def run(self, t: Tape, *xs: Tensor) -> Tensor:
        return t.cat(xs, -1)

    def code(self, *xs: ast.expr) -> ast.expr:
        return expr("torch.cat([*xs], -1)", xs=xs)


class Expand(View):
    """[..., d] -> [..., n, d], the same row n times"""

    n: int

    def infer(self, x: Type) -> Type:
        return Type((*x.shape[:-1], self.n, x.last), x.dtype)

    def run(self, t: Tape, x: Tensor) -> Tensor:
        row = t.unsqueeze(x, -2)
        return t.expand(row, (*x.shape[:-1], self.n, x.shape[-1]))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.unsqueeze(-2).expand(*sizes, n, -1)", x=x, sizes=[-1] * 2, n=self.n)


class Unsqueeze(View):
    """A new dim of size 1 at ``dim`` (counted from the end, -1 is after the last)."""

    dim: int

    def infer(self, x: Type) -> Type:
        shape = list(x.shape)
        shape.insert(len(shape) + 1 + self.dim, 1)
        return Type(tuple(shape), x.dtype)

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.unsqueeze(x, self.dim)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.unsqueeze(dim)", x=x, dim=self.dim)


class Tokenwise(Op):
    """Weights of ``dims`` dims [...] that are the same for every token of x [B, S, ...]: [B, S, ...]"""

    dims: int

    def infer(self, weights: Type, x: Type) -> Type:
        need(len(weights.shape) == self.dims, f"weights {weights} of {self.dims} dims")
        return Type((*x.shape[:2], *weights.shape), weights.dtype)

    def row(self, *ins: Type) -> bool:
        return True

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Of x it asks how many tokens there are."""
        return 1.0, 0.0

    def run(self, t: Tape, weights: Tensor, x: Tensor) -> Tensor:
        return t.made_of(t.new((*x.shape[:2], *weights.shape), weights.width), (weights,))

    def code(self, weights: ast.expr, x: ast.expr) -> ast.expr:
        return expr("weights.repeat(*x.shape[:2], *ones)", weights=weights, x=x, ones=[1] * self.dims)
