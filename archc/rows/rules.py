"""The ops of row programs: one entry each, with axes, gradient, value and what printers write for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from archc.rows.value import Axes, Program, Row, Rule, Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

Format = Literal["act", "fp32", "bf16", "fp8"]
"""How numbers lie in memory; ``act`` is the format of activations, which is known when a package runs."""


# --- leaves --------------------------------------------------------------------------------------
class Input(Rule):
    """What comes from memory for every token, or for every ``shared`` tokens after one another."""

    name: str
    streams: Streams = ()
    row: bool = False
    format: Format = "fp32"
    shared: int = 1

    def axes(self) -> Axes:
        return Axes(streams=self.streams, row=self.row)


class Param(Rule):
    """What comes from memory for all tokens."""

    name: str
    streams: Streams = ()
    row: bool = False
    format: Format = "fp32"

    def axes(self) -> Axes:
        return Axes(streams=self.streams, row=self.row, token=False)


class Const(Rule):
    """A number."""

    number: float

    def axes(self) -> Axes:
        return Axes(token=False)


# --- one element at a time -----------------------------------------------------------------------
class Pointwise(Rule):
    """Of each element alone. ``cpp`` and ``triton`` are how a printer writes it, ``x`` being the operand; they may call
    what `archc/rows/cpp/text.py` defines, or `archc/rows/triton/printed.py` lists.
    """

    cpp: ClassVar[str]
    triton: ClassVar[str]
    numpy: ClassVar[str]

    def axes(self, x: Row) -> Axes:
        return x.axes

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        return eval(self.numpy, {"np": np, "math": math, "x": x, **self.__dict__})  # noqa: S307


class Exp(Pointwise):
    """e^x"""

    cpp, triton, numpy = "exponential({x})", "tl.exp({x})", "np.exp(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(grad, out),)


class Log(Pointwise):
    """The natural logarithm."""

    cpp, triton, numpy = "logarithm({x})", "tl.log({x})", "np.log(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(grad, recip(out.args[0])),)


class Sigmoid(Pointwise):
    """1 / (1 + e^-x)"""

    cpp, triton, numpy = "sigmoid({x})", "tl.sigmoid({x})", "1 / (1 + np.exp(-x))"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        slope = mul(out, add(1.0, mul(out, -1.0)))
        return (mul(grad, out.program.hinted("slope", slope)),)


class Rsqrt(Pointwise):
    """1 / sqrt(x)"""

    cpp, triton, numpy = "1.0f / std::sqrt({x})", "tl.rsqrt({x})", "1 / np.sqrt(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        # The cube alone is nothing where x is 1e26
        return (mul(_often(grad, out, 3), -0.5),)


class Recip(Pointwise):
    """1 / x"""

    cpp, triton, numpy = "1.0f / {x}", "1.0 / {x}", "1 / x"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(_often(grad, out, 2), -1.0),)


class Clip(Pointwise):
    """x limited to [low, high]; NaN stays, of which the minimum and maximum of Triton would make a number."""

    low: float
    high: float
    cpp = "limited({x}, {low}, {high})"
    triton = "tl.where({x} < {low}, {low}, tl.where({x} > {high}, {high}, {x}))"
    numpy = "np.clip(x, low, high)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        (x,) = out.args
        return (mul(grad, x.program.make(Inside(low=self.low, high=self.high), x)),)


class Softplus(Pointwise):
    """log(1 + e^x)"""

    cpp, triton, numpy = "softplus({x})", "stable_softplus({x})", "np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(grad, out.program.make(Sigmoid(), *out.args)),)


class Inside(Pointwise):
    """1 where x is within [low, high], else 0."""

    low: float
    high: float
    cpp = "({x} >= {low} && {x} <= {high} ? 1.0f : 0.0f)"
    triton = "tl.where(({x} >= {low}) & ({x} <= {high}), 1.0, 0.0)"
    numpy = "((x >= low) & (x <= high)).astype(x.dtype)"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class Round(Pointwise):
    """x as a format holds it; the gradient goes straight through."""

    format: Format
    cpp = "round_{format}({x})"
    triton = "{x}.to(tl.{format}).to(tl.float32)"
    numpy = "x"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (grad,)


# --- sums and products ---------------------------------------------------------------------------
class Add(Rule):
    """a + b; one of them may have no streams."""

    def axes(self, a: Row, b: Row) -> Axes:
        assert a.streams == b.streams or () in (a.streams, b.streams), f"{a} + {b}"
        return Axes(streams=a.streams or b.streams, row=a.row or b.row, token=a.token or b.token)

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (grad, grad)

    def value(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        a, b = (_streamed(x, max(a.ndim, b.ndim)) for x in (a, b))
        return a + b


class Product(Rule):
    """A sum of products over streams, named by letters as in an einsum ("jk,j->k"); rows go element by element."""

    spec: str

    def axes(self, *args: Row) -> Axes:
        sizes: dict[str, int] = {}
        ins, out = self.letters()
        for letters, arg in zip(ins, args, strict=True):
            assert len(letters) == len(arg.streams), f"{self.spec} of {args}"
            for letter, n in zip(letters, arg.streams, strict=True):
                assert sizes.setdefault(letter, n) == n, f"{self.spec} of {args}"
        return Axes(
            streams=tuple(sizes[c] for c in out), row=any(a.row for a in args), token=any(a.token for a in args)
        )

    def letters(self) -> tuple[list[str], str]:
        """Letters of each operand, and of the result."""
        ins, out = self.spec.split("->")
        return ins.split(","), out

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        ins, made = self.letters()
        for i, arg in enumerate(out.args):
            others = [(s, a) for j, (s, a) in enumerate(zip(ins, out.args, strict=True)) if j != i]
            kept = "".join(c for c in ins[i] if c in made or any(c in s for s, _ in others))
            spec = ",".join([made, *(s for s, _ in others)]) + f"->{kept}"
            g = product(spec, grad, *(a for _, a in others))
            yield g if kept == ins[i] else arg.program.make(Spread(kept=kept, made=ins[i], sizes=arg.streams), g)

    def value(self, *args: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        ins, out = self.letters()
        rows = max(a.shape[-1] for a in args)
        tokens = max(a.shape[0] for a in args)
        wide = [np.broadcast_to(a, (tokens, *a.shape[1:-1], rows)) for a in args]
        spec = ",".join(f"T{s}D" for s in ins)
        return np.einsum(f"{spec}->T{out}D", *wide)


class Spread(Rule):
    """A value repeated over streams that it lacks: letters ``kept`` become ``made``."""

    kept: str
    made: str
    sizes: Streams

    def axes(self, x: Row) -> Axes:
        return Axes(streams=self.sizes, row=x.row, token=x.token)

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (product(f"{self.made}->{self.kept}", grad),)

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        shape = [x.shape[1 + self.kept.index(c)] if c in self.kept else 1 for c in self.made]
        assert "".join(c for c in self.made if c in self.kept) == self.kept
        return np.broadcast_to(x.reshape(x.shape[0], *shape, x.shape[-1]), (x.shape[0], *self.sizes, x.shape[-1]))


# --- streams -------------------------------------------------------------------------------------
class Take(Rule):
    """Elements of the streams laid out in a line, from ``start`` on, in a shape."""

    start: int
    shape: Streams

    def axes(self, x: Row) -> Axes:
        assert self.start + math.prod(self.shape) <= math.prod(x.streams), f"{self} of {x}"
        return Axes(streams=self.shape, row=x.row, token=x.token)

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        (x,) = out.args
        return (x.program.make(Pad(start=self.start, shape=x.streams), grad),)

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        line = x.reshape(x.shape[0], -1, x.shape[-1])[:, self.start : self.start + math.prod(self.shape)]
        return line.reshape(x.shape[0], *self.shape, x.shape[-1])


class Pad(Rule):
    """Elements put back into a line of zeros, from ``start`` on, in a shape."""

    start: int
    shape: Streams

    def axes(self, x: Row) -> Axes:
        return Axes(streams=self.shape, row=x.row, token=x.token)

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        (x,) = out.args
        return (x.program.make(Take(start=self.start, shape=x.streams), grad),)

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        line = np.zeros((x.shape[0], math.prod(self.shape), x.shape[-1]), x.dtype)
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        line[:, self.start : self.start + flat.shape[1]] = flat
        return line.reshape(x.shape[0], *self.shape, x.shape[-1])


class StreamMax(Rule):
    """The largest over the last stream axis; a constant to gradients."""

    def axes(self, x: Row) -> Axes:
        return Axes(streams=x.streams[:-1], row=x.row, token=x.token)

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        return x.max(-2)


# --- over the row and over tokens ----------------------------------------------------------------
class RowSum(Rule):
    """The sum over the row."""

    def axes(self, x: Row) -> Axes:
        assert x.row, f"no row in {x}"
        return Axes(streams=x.streams, token=x.token)

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (grad,)

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        return x.sum(-1, keepdims=True)


class RowMax(Rule):
    """The largest of the row; a constant to gradients."""

    def axes(self, x: Row) -> Axes:
        assert x.row, f"no row in {x}"
        return Axes(streams=x.streams, token=x.token)

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        return x.max(-1, keepdims=True)


class TokenSum(Rule):
    """The sum over all tokens: the gradient of a parameter."""

    def axes(self, x: Row) -> Axes:
        return Axes(streams=x.streams, row=x.row, token=False)

    def value(self, x: NDArray[Any]) -> NDArray[Any]:
        return x.sum(0, keepdims=True)


class Project(Rule):
    """x [n] D times weight [m, n] D, summed over streams and row: [m]. The one real product of matrices."""

    def axes(self, x: Row, weight: Row) -> Axes:
        assert weight.streams[1:] == x.streams, f"{x} by {weight}"
        assert x.row, f"no row in {x}"
        assert weight.row, f"no row in {weight}"
        return Axes(streams=weight.streams[:1])

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        x, weight = out.args
        return x.program.make(Unproject(), grad, weight), x.program.make(Outer(), grad, x)

    def value(self, x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
        flat = x.reshape(x.shape[0], -1)
        return (flat @ weight.reshape(weight.shape[1], -1).T)[..., None]


class Unproject(Rule):
    """Numbers [m] times weight [m, n] D: [n] D. What `Project` gives back to its input."""

    def axes(self, numbers: Row, weight: Row) -> Axes:
        return Axes(streams=weight.streams[1:], row=True)

    def value(self, numbers: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
        flat = numbers[..., 0] @ weight.reshape(weight.shape[1], -1)
        return flat.reshape(numbers.shape[0], *weight.shape[2:])


class Outer(Rule):
    """Numbers [m] times x [n] D, summed over tokens: [m, n] D. What `Project` gives back to its weight."""

    def axes(self, numbers: Row, x: Row) -> Axes:
        return Axes(streams=(*numbers.streams, *x.streams), row=True, token=False)

    def value(self, numbers: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        made = numbers[..., 0].T @ x.reshape(x.shape[0], -1)
        return made.reshape(1, numbers.shape[1], *x.shape[1:])


# --- repeated ------------------------------------------------------------------------------------
class Placeholder(Rule):
    """What the body of a repeat starts from (``which`` = state), or gets the gradient of (cotangent)."""

    which: Literal["state", "cotangent"]
    of: int
    streams: Streams

    def axes(self) -> Axes:
        return Axes(streams=self.streams)


class Repeat(Rule):
    """A body run ``times`` times on numbers of a token: operands are the start, the placeholder, and the body's end.

    ``name`` is what a function of it is called.
    """

    times: int
    name: str = "rounds"

    def axes(self, start: Row, state: Row, end: Row) -> Axes:
        assert not start.row, "a repeat works on streams alone"
        assert start.streams == end.streams, f"a repeat of {start} gives {end}"
        return start.axes

    def vjp(self, out: Row, grad: Row) -> Iterable[Row | None]:
        from archc.rows.gradient import gradients

        start, state, end = out.args
        cotangent = out.program.make(Placeholder(which="cotangent", of=out.id, streams=out.streams))
        (back,) = gradients({end: cotangent}, [state])
        assert back is not None
        rule = RepeatBack(times=self.times, name=self.name)
        return out.program.make(rule, start, grad, state, end, cotangent, back), None, None


class RepeatBack(Rule):
    """The gradient of a repeat: its rounds are run and remembered, then the gradient of the body backwards."""

    times: int
    name: str = "rounds"

    def axes(self, start: Row, grad: Row, *_: Row) -> Axes:
        return start.axes


# --- building ------------------------------------------------------------------------------------
def const(program: Program, number: float) -> Row:
    """A number."""
    return program.make(Const(number=float(number)))


def _both(a: Row | float, b: Row | float) -> tuple[Row, Row]:
    if isinstance(a, Row):
        return a, b if isinstance(b, Row) else const(a.program, b)
    assert isinstance(b, Row)
    return const(b.program, a), b


def _number(x: Row) -> float | None:
    return x.rule.number if isinstance(x.rule, Const) else None


def add(a: Row | float, b: Row | float) -> Row:
    """a + b"""
    a, b = _both(a, b)
    if _number(a) == 0:
        return b
    if _number(b) == 0:
        return a
    return a.program.make(Add(), *sorted((a, b), key=lambda v: v.id))


def mul(a: Row | float, b: Row | float) -> Row:
    """a * b, element by element; one of them may have no streams."""
    a, b = _both(a, b)
    if _number(a) == 1:
        return b
    if _number(b) == 1:
        return a
    first, second = ("abcd"[: len(v.streams)] for v in (a, b))
    return product(f"{first},{second}->{first or second}", a, b)


def product(spec: str, *args: Row) -> Row:
    """A `Product`; of two operands with equal letters the order does not matter."""
    rule = Product(spec=spec)
    ins, out = rule.letters()
    if ins == [out]:
        return args[0]
    if len(args) == 2 and ins[0] == ins[1]:
        args = tuple(sorted(args, key=lambda v: v.id))
    return args[0].program.make(rule, *args)


def _often(grad: Row, out: Row, times: int) -> Row:
    """A gradient times a value, so many times."""
    program = grad.program
    name = program.hints.get(out.id, "inverse")
    for i in range(1, times + 1):
        grad = program.hinted(f"d_{name}_times_{'it' if i == 1 else f'it{i}'}", mul(grad, out))
    return grad


def recip(x: Row) -> Row:
    """1 / x"""
    return x.program.make(Recip(), x)


def repeat(times: int, body: Callable[[Row], Row], start: Row, name: str = "rounds") -> Row:
    """``body`` applied ``times`` times; what is printed calls it by ``name``."""
    if times == 0:
        return start
    state = start.program.make(Placeholder(which="state", of=start.id, streams=start.streams))
    return start.program.make(Repeat(times=times, name=name), start, state, body(state))


def _streamed(x: NDArray[Any], ndim: int) -> NDArray[Any]:
    """An array with as many stream axes as another has."""
    return x.reshape(x.shape[0], *(1,) * (ndim - x.ndim), *x.shape[1:]) if x.ndim < ndim else x
