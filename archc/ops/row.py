"""Row-local operations: a token's result depends on that token alone."""

from __future__ import annotations

import ast
from typing import Any, Literal

from archc.ops.base import Op, ParamSpec, Type, expr, need
from archc.ops.tape import Tape, Tensor


class RowOp(Op, abstract=True):
    """Base of the family: one operand, one result of its shape, unless an op says otherwise."""

    def infer(self, x: Type) -> Type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x

    def row(self, *ins: Type) -> bool:
        return True


class RmsNorm(RowOp):
    """x / sqrt(mean(x^2) + eps) over the last dim, times a weight when it is named."""

    needs = {"rms_norm": "kernels.rms_norm", "RMSNorm": "runtime.modules"}
    eps: float

    def params(self, name: str | None, x: Type) -> tuple[ParamSpec, ...]:
        return (ParamSpec(name=f"{name}.weight", shape=(x.last,), role="norm", init="ones"),) if name else ()

    def infer(self, x: Type, *weight: Type) -> Type:
        return x

    def run(self, t: Tape, x: Tensor, *weight: Tensor) -> Tensor:
        rstd = t.new((*x.shape[:-1], 1), max(4, x.width))
        return t.made_of(t.new(x.shape, x.width), (x, *weight), (x, rstd), work=3 * x.numel * max(4, x.width))

    def code(self, x: ast.expr, *weight: ast.expr) -> ast.expr:
        return expr("rms_norm(x, weight, eps=eps)", x=x, weight=weight[0] if weight else literal_none(), eps=self.eps)

    def module(self, x: Type, *weight: Type) -> ast.expr:
        return expr("RMSNorm(dim, eps=eps)", dim=x.last, eps=self.eps)


class InverseRms(RowOp):
    """1 / sqrt(mean(x^2) + eps) over the last dim, which becomes 1: what a norm without weight multiplies by."""

    needs = {"inverse_rms": "kernels.rms_norm"}
    island = True
    eps: float

    def infer(self, x: Type) -> Type:
        return Type((*x.shape[:-1], 1), x.dtype)

    def run(self, t: Tape, x: Tensor) -> Tensor:
        wide = t.upcast(x)
        rstd = t.new((*x.shape[:-1], 1), wide.width)
        return t.made_of(rstd, (wide,), (wide, rstd))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("inverse_rms(x, eps=eps)", x=x, eps=self.eps)


def literal_none() -> ast.expr:
    """The expression `None`."""
    return ast.Constant(value=None)


class LayerNorm(RowOp):
    """(x - mean) / sqrt(var + eps) over the last dim, times a weight, plus a bias if asked."""

    needs = {"F": "torch.nn.functional", "nn": "torch"}
    eps: float
    bias: bool = True

    def params(self, name: str | None, x: Type) -> tuple[ParamSpec, ...]:
        weight = ParamSpec(name=f"{name}.weight", shape=(x.last,), role="norm", init="ones")
        bias = ParamSpec(name=f"{name}.bias", shape=(x.last,), role="bias", init="zeros")
        return (weight, bias) if self.bias else (weight,)

    def infer(self, x: Type, *params: Type) -> Type:
        return x

    def run(self, t: Tape, x: Tensor, *params: Tensor) -> Tensor:
        mean, rstd = (t.new((*x.shape[:-1], 1), x.width) for _ in range(2))
        return t.made_of(t.new(x.shape, x.width), (x, *params), (x, mean, rstd))

    def code(self, x: ast.expr, *params: ast.expr) -> ast.expr:
        weight, bias = (*params, None)[:2]
        return expr("F.layer_norm(x, x.shape[-1:], weight, bias, eps=eps)", x=x, weight=weight, bias=bias, eps=self.eps)

    def module(self, x: Type, *params: Type) -> ast.expr:
        return expr("nn.LayerNorm(dim, eps=eps, bias=bias)", dim=x.last, eps=self.eps, bias=_shown_false(self.bias))


def _shown_false(flag: bool) -> ast.expr | None:
    return None if flag else ast.Constant(value=False)


class Swiglu(RowOp):
    """(up + shift) * gate * sigmoid(alpha * gate); with a limit, gate is first clamped above and up on both sides."""

    needs = {"swiglu": "kernels.swiglu"}
    limit: float | None = None
    alpha: float = 1.0
    shift: float = 0.0

    def infer(self, gate: Type, up: Type) -> Type:
        need(gate.shape == up.shape, f"swiglu of {gate} and {up}")
        return gate

    def run(self, t: Tape, gate: Tensor, up: Tensor) -> Tensor:
        left, right = t.upcast(gate), t.upcast(up)
        if self.limit is not None:
            left, right = t.of_input(left), t.of_input(right)  # clamped
        opened = t.of_input(left) if self.alpha == 1 else t.mul(left, t.of_result(t.scaled(left)))
        right = t.add(right) if self.shift else right
        return t.to(t.mul(opened, right), gate.width)

    def code(self, gate: ast.expr, up: ast.expr) -> ast.expr:
        return expr(
            "swiglu(gate, up, limit=limit, alpha=alpha, shift=shift)",
            gate=gate,
            up=up,
            limit=self.limit,
            alpha=None if self.alpha == 1 else self.alpha,
            shift=None if self.shift == 0 else self.shift,
        )


class Gelu(RowOp):
    """x times the normal distribution function of x, or its tanh approximation."""

    needs = {"F": "torch.nn.functional"}
    tanh: bool = False

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.of_input(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("F.gelu(x, approximate=approximate)", x=x, approximate="tanh" if self.tanh else None)


class Relu(RowOp):
    """max(x, 0)"""

    needs = {"F": "torch.nn.functional"}

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.of_result(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("F.relu(x)", x=x)


class Sigmoid(RowOp):
    """1 / (1 + exp(-x))"""

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.of_result(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.sigmoid()", x=x)


class Tanh(RowOp):
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))"""

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.of_result(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.tanh()", x=x)


class Softmax(RowOp):
    """exp(x) / sum of exp(x) over the last dim"""

    island = True

    def learns(self, ins: tuple[Any, ...]) -> tuple[Any, ...]:
        return () if ins[0].type.last == 1 else ins

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.of_result(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.softmax(-1)", x=x)


class Silu(RowOp):
    """x * sigmoid(x)"""

    needs = {"F": "torch.nn.functional"}

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.of_input(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("F.silu(x)", x=x)


class Clamp(RowOp):
    """x limited to [low, high]."""

    low: float
    high: float

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.of_input(x)

    def code(self, x: ast.expr) -> ast.expr:
        return expr("x.clamp(low, high)", x=x, low=self.low, high=self.high)


class Rotate(RowOp):
    """x with its channels at one end rotated by the angles of the tokens' positions."""

    needs = {"rotate": "kernels.rotate"}
    pairs: Literal["half", "interleaved"] = "half"
    end: Literal["first", "last"] = "first"
    inverse: bool = False

    def infer(self, x: Type, angles: Type) -> Type:
        turned = 2 * angles.fixed(-2)
        need(turned <= x.last, f"rotates {turned} channels of a head that has {x.last}")
        need(x.shape[1] == angles.shape[1], f"angles {angles} are not at the positions of {x}")
        return x

    def run(self, t: Tape, x: Tensor, angles: Tensor) -> Tensor:
        return t.made_of(t.new(x.shape, x.width), (x,), (angles,))

    def code(self, x: ast.expr, angles: ast.expr) -> ast.expr:
        pairs = None if self.pairs == "half" else self.pairs
        end = None if self.end == "first" else self.end
        return expr(
            "rotate(x, angles, pairs=pairs, end=end, inverse=inverse)",
            x=x,
            angles=angles,
            pairs=pairs,
            end=end,
            inverse=self.inverse,
        )


class Binary(RowOp):
    """Elementwise ``a sign b`` over values, or a value and a number; shapes broadcast from the right."""

    sign: Literal["+", "-", "*", "/"]
    number: float | None = None

    def infer(self, a: Type, b: Type | None = None) -> Type:
        if b is None:
            return a
        long, short = (a, b) if len(a.shape) >= len(b.shape) else (b, a)
        pad = (1,) * (len(long.shape) - len(short.shape))
        shape = []
        for x, y in zip(long.shape, (*pad, *short.shape), strict=True):
            need(x == y or 1 in (x, y), f"{a} {self.sign} {b}")
            shape.append(y if x == 1 else x)
        return Type(tuple(shape), "fp32" if "fp32" in (a.dtype, b.dtype) else a.dtype)

    def run(self, t: Tape, a: Tensor, b: Tensor | None = None) -> Tensor:
        if b is None:
            return t.add(a) if self.sign in "+-" else t.scaled(a)
        return (t.mul if self.sign == "*" else t.div if self.sign == "/" else t.add)(a, b)

    def code(self, a: ast.expr, b: ast.expr | None = None) -> ast.expr:
        return expr(f"a {self.sign} b", a=a, b=self.number if b is None else b)


class Cast(RowOp):
    """x as at least float32 (an island begins), or as the dtype of a model value (it ends)."""

    needs = {"upcast": "kernels.upcast"}
    to: Literal["fp32", "act"]

    def infer(self, x: Type, like: Type | None = None) -> Type:
        return Type(x.shape, self.to)

    def run(self, t: Tape, x: Tensor, like: Tensor | None = None) -> Tensor:
        return t.to(x, max(4, x.width) if self.to == "fp32" else t.act)

    def code(self, x: ast.expr, like: ast.expr | None = None) -> ast.expr:
        return expr("upcast(x)", x=x) if self.to == "fp32" else expr("x.to(like.dtype)", x=x, like=like)
