"""What hyper-connections do to residual streams, beyond matrix products."""

from __future__ import annotations

import ast
import math
from typing import Any

from archc.ops.base import Type, Workload, expr, need, numel
from archc.ops.row import RowOp
from archc.ops.tape import Tape, Tensor


class Collapse(RowOp):
    """The sum of streams [..., M, D] times their weights [..., M]: [..., D]."""

    needs = {"collapse": "kernels.streams"}
    island = True

    def infer(self, streams: Type, weights: Type) -> Type:
        need(weights.shape == streams.shape[:-1], f"{weights} weights for streams {streams}")
        return Type((*streams.shape[:-2], streams.last), streams.dtype)

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        n = 2 * numel(ins[0].shape, w)
        return n, n, 2 * n

    def run(self, t: Tape, streams: Tensor, weights: Tensor) -> Tensor:
        *some, m, d = streams.shape
        rows = math.prod(some)
        flat = t.reshape(streams, (rows, m, d))
        out = t.matmul(t.to(t.reshape(weights, (rows, 1, m)), streams.width), flat, again=True)
        return t.reshape(out, (*some, d))

    def code(self, streams: ast.expr, weights: ast.expr) -> ast.expr:
        return expr("collapse(streams, weights)", streams=streams, weights=weights)


class Mix(RowOp):
    """Stream k as the sum of comb[j, k] times stream j, plus post[k] times y: [..., M, D].

    streams [..., M, D], comb [..., M, M], y [..., D], post [..., M].
    """

    needs = {"mix": "kernels.streams"}
    island = True

    def infer(self, streams: Type, comb: Type, y: Type, post: Type) -> Type:
        m = streams.shape[-2]
        need(comb.shape == (*streams.shape[:-1], m), f"{comb} mixes streams {streams}")
        need(post.shape == streams.shape[:-1], f"{post} spreads over streams {streams}")
        need(y.shape == (*streams.shape[:-2], streams.last), f"{y} is spread over streams {streams}")
        return streams

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        """Products of comb; the gradient is two of these, and two of post and y."""
        streams, comb = ins[:2]
        spread = 2 * numel(streams.shape, w)
        mixed = spread * comb.last
        return mixed, mixed, 2 * mixed + 2 * spread

    def run(self, t: Tape, streams: Tensor, comb: Tensor, y: Tensor, post: Tensor) -> Tensor:
        rows = math.prod(streams.shape[:-2])
        ins = [t.to(t.reshape(x, (rows, *x.shape[2:])), streams.width) for x in (streams, comb, y, post)]
        flat = ins[0]
        out = t.made_of(t.new(flat.shape, flat.width), ins, ins)
        return t.reshape(out, streams.shape)

    def code(self, streams: ast.expr, comb: ast.expr, y: ast.expr, post: ast.expr) -> ast.expr:
        return expr("mix(streams, comb, y, post)", streams=streams, comb=comb, y=y, post=post)


class Only(RowOp):
    """Weights [..., M] that read one ``stream`` of [..., M, D] and no other."""

    needs = {"only": "kernels.streams"}
    constant = True
    stream: int = 0

    def infer(self, streams: Type) -> Type:
        need(self.stream < streams.fixed(-2), f"stream {self.stream} of {streams}")
        return Type(streams.shape[:-1], "fp32")

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """How many there are is all that it asks."""
        return (0.0,)

    def run(self, t: Tape, streams: Tensor) -> Tensor:
        return t.new(streams.shape[:-1], max(4, streams.width))

    def code(self, streams: ast.expr) -> ast.expr:
        return expr("only(streams, stream)", streams=streams, stream=self.stream)


class Filled(RowOp):
    """A ``number`` for each token of x [B, S, ...], ``dims`` times: [B, S, *dims], in float32 or (``narrow``) in the
    dtype of x.
    """

    needs = {"filled": "kernels.streams"}
    constant = True
    number: float = 0.0
    dims: tuple[int, ...]
    narrow: bool = False

    def infer(self, x: Type) -> Type:
        need(len(x.shape) > 2 and all(n > 0 for n in self.dims), f"{self.dims} numbers for each token of {x}")
        return Type((*x.shape[:2], *self.dims), x.dtype if self.narrow else "fp32")

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """How many tokens there are is all that it asks."""
        return (0.0,)

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.new((*x.shape[:2], *self.dims), x.width if self.narrow else max(4, x.width))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("filled(x, number, *dims, narrow=n)", x=x, number=self.number, dims=self.dims, n=self.narrow)


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

    def run(self, t: Tape, x: Tensor) -> Tensor:
        m = t.upcast(x)
        if self.eps == 0:
            for _ in range(2 * self.iters):
                m = t.of_result(m)
            return t.to(m, x.width)
        rows = t.reshape(t.add(t.of_result(m)), (math.prod(x.shape[:-2]), x.shape[-1] ** 2))
        out = t.made_of(t.new(rows.shape, rows.width), (rows,), (rows,), work=self._work(rows))
        return t.to(t.reshape(out, x.shape), x.width)

    def _work(self, rows: Tensor) -> int:
        """Bytes of the passes that the gradient runs again, of a block of tokens: a total and a result of each."""
        return 2 * (2 * self.iters - 1) * min(2048, rows.shape[0]) * (rows.shape[1] + 1) * rows.width

    def code(self, x: ast.expr) -> ast.expr:
        return expr("sinkhorn(x, iters=iters, eps=eps)", x=x, iters=self.iters, eps=self.eps)


class Normalize(RowOp):
    """x / (sum of x over the last dim + eps)"""

    needs = {"normalize": "kernels.normalize"}
    island = True
    eps: float = 0.0

    def learns(self, ins: tuple[Any, ...]) -> tuple[Any, ...]:
        return () if ins[0].type.last == 1 else ins

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.div(x, t.add(t.sum(x, -1, keep=True)))

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

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.sum(x, self.dim)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.sum(dim)", x=x, dim=self.dim)


class SignedSqrt(RowOp):
    """sign(x) * sqrt(max(|x|, floor))"""

    needs = {"signed_sqrt": "kernels.signed_sqrt"}
    floor: float

    def run(self, t: Tape, x: Tensor) -> Tensor:
        sign = t.pointwise(x)
        return t.mul(sign, t.of_result(t.of_input(t.of_input(x))))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("signed_sqrt(x, floor=floor)", x=x, floor=self.floor)
