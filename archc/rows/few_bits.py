"""Rounding to numbers of few bits, groups of which share a power of two as their scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from archc.rows.rules import Pointwise, mul, recip
from archc.rows.value import Axes, Row, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Size(Pointwise):
    """|x|, infinite where x is NaN, which the largest of a row would pass over; a constant to gradients."""

    cpp = "({x} == {x} ? std::abs({x}) : INFINITY)"
    triton, numpy = 'tl.where({x} == {x}, tl.abs({x}), float("inf"))', "np.where(x == x, np.abs(x), np.inf)"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class Whole(Pointwise):
    """The nearest whole number, to even ones in between, of numbers below 2^22; a constant to gradients.

    Triton: a float32 of that size with 1.5 * 2^23 added has no bits left for fractions.
    """

    cpp, triton, numpy = "__builtin_rintf({x})", "({x} + 12582912.0) - 12582912.0", "np.rint(x)"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class ScaleFp8(Pointwise):
    """The least power of two by which x over it is at most 448 = 1.75 * 2^8, what E4M3 holds; x is above 0.

    NaN where x is infinite: a group with a number that is not finite is NaN as a whole.
    """

    cpp = (
        "__builtin_bit_cast(float, ((__builtin_bit_cast(int32_t, {x}) >> 23) - 8"
        " + ((__builtin_bit_cast(int32_t, {x}) & 0x7FFFFF) > 0x600000)) << 23) + {x} * 0.0f"
    )
    triton = (
        "((({x}.to(tl.int32, bitcast=True) >> 23) - 8"
        " + (({x}.to(tl.int32, bitcast=True) & 0x7FFFFF) > 0x600000)) << 23).to(tl.float32, bitcast=True)"
        " + {x} * 0.0"
    )
    numpy = "np.ldexp(1.0, np.frexp(x)[1] - 9 + (2 * np.frexp(x)[0] > 1.75)) + x * 0"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class ScaleFp4(Pointwise):
    """The least power of two by which x over it is at most 6 = 1.5 * 2^2, what E2M1 holds; else as for FP8."""

    cpp = ScaleFp8.cpp.replace("- 8", "- 2").replace("0x600000", "0x400000")
    triton = ScaleFp8.triton.replace("- 8", "- 2").replace("0x600000", "0x400000")
    numpy = "np.ldexp(1.0, np.frexp(x)[1] - 3 + (2 * np.frexp(x)[0] > 1.5)) + x * 0"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class StepFp8(Pointwise):
    """How far apart the numbers of E4M3 lie where x is: three bits after the first, the least of 2^-6."""

    cpp = "__builtin_bit_cast(float, (std::max((__builtin_bit_cast(int32_t, {x}) >> 23) & 0xFF, 121) - 3) << 23)"
    triton = "((tl.maximum(({x}.to(tl.int32, bitcast=True) >> 23) & 0xFF, 121) - 3) << 23).to(tl.float32, bitcast=True)"
    numpy = "np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 1, -6) - 3)"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class StepFp4(Pointwise):
    """How far apart the numbers of E2M1 lie where x is: one bit after the first, the least of 1."""

    cpp = StepFp8.cpp.replace("121) - 3", "127) - 1")
    triton = StepFp8.triton.replace("121) - 3", "127) - 1")
    numpy = "np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 1, 0) - 1)"

    def vjp(self, out: Row, grad: Row) -> Iterable[None]:
        return (None,)


class Through(Rule):
    """The second operand, whose gradient is that of the first: rounded numbers that gradients pass straight through."""

    def axes(self, x: Row, rounded: Row) -> Axes:
        assert x.axes == rounded.axes, f"{rounded} in the place of {x}"
        return x.axes

    def vjp(self, out: Row, grad: Row) -> Iterable[Row | None]:
        return grad, None

    def value(self, x: NDArray[Any], rounded: NDArray[Any]) -> NDArray[Any]:
        return rounded


class Numbers(NamedTuple):
    """How numbers of few bits are found."""

    scale: Pointwise
    step: Pointwise
    least: float
    """What the largest of a group counts for at least."""


FORMATS = {
    "fp8": Numbers(ScaleFp8(), StepFp8(), 1e-4),
    "fp4": Numbers(ScaleFp4(), StepFp4(), 6 * 2.0**-126),
}
"""By format, as `kernels.quantise` has them."""


def rounded(x: Row, step: Row) -> Row:
    """x as a whole number of steps, which are powers of two."""
    return mul(x.program.make(Whole(), mul(x, recip(step))), step)
