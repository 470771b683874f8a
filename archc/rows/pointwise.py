"""More ops of row programs that work on each element alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from archc.rows.rules import Clip, Exp, Pointwise, Sigmoid, add, mul, recip
from archc.rows.value import Axes, Row

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fixed(Pointwise):
    """x without a gradient."""

    cpp, triton, numpy = "{x}", "{x}", "x"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class EachToken(Pointwise):
    """x, the same for each token."""

    cpp, triton, numpy = "{x}", "{x}", "x"

    def axes(self, x: Row) -> Axes:
        return Axes(streams=x.streams, row=x.row)

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (grad,)


class Square(Pointwise):
    """x^2, which rewrites do not take apart."""

    cpp, triton, numpy = "{x} * {x}", "{x} * {x}", "x * x"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(mul(grad, 2.0), out.args[0]),)


class Sqrt(Pointwise):
    """The square root."""

    cpp, triton, numpy = "std::sqrt({x})", "tl.sqrt({x})", "np.sqrt(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(mul(grad, 0.5), recip(out)),)


class Sign(Pointwise):
    """-1, 0 or 1."""

    cpp, triton = "(({x} > 0.0f) - ({x} < 0.0f))", "tl.where({x} > 0, 1.0, tl.where({x} < 0, -1.0, 0.0))"
    numpy = "np.sign(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class Relu(Pointwise):
    """max(x, 0)"""

    cpp, triton, numpy = "({x} < 0.0f ? 0.0f : {x})", "tl.where({x} < 0, 0.0, {x})", "np.maximum(x, 0)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(grad, out.program.make(Positive(), *out.args)),)


class Positive(Pointwise):
    """1 where x is above 0, else 0."""

    cpp, triton, numpy = "({x} > 0.0f ? 1.0f : 0.0f)", "tl.where({x} > 0, 1.0, 0.0)", "(x > 0).astype(x.dtype)"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class Tanh(Pointwise):
    """(e^x - e^-x) / (e^x + e^-x)"""

    cpp, triton, numpy = "tangent({x})", "stable_tanh({x})", "np.tanh(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(grad, add(1.0, mul(mul(out, out), -1.0))),)


class Erf(Pointwise):
    """2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x."""

    cpp, triton, numpy = "error({x})", "tl.erf({x})", "np.vectorize(math.erf)(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        (x,) = out.args
        slope = out.program.make(Exp(), mul(mul(x, x), -1.0))
        return (mul(mul(grad, 2 / math.sqrt(math.pi)), slope),)


class SqrtSoftplus(Pointwise):
    """sqrt(log(1 + e^x))"""

    cpp = "({x} < -20.0f ? exponential(0.5f * {x}) : std::sqrt(softplus({x})))"
    triton = "stable_root_softplus({x})"
    numpy = "np.sqrt(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        """The slope is sigmoid(x) / (2 root): of a root that vanishes nothing is left to divide by."""
        make = out.program.make
        root = make(Clip(low=1e-30, high=math.inf), out)
        return (mul(mul(grad, 0.5), mul(make(Sigmoid(), *out.args), recip(root))),)
