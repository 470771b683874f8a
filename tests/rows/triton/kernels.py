"""Kernels to print: fusions of language models, written as rows."""

from __future__ import annotations

from archc.rows.kernel import Kernel
from archc.rows.rules import Input, Param, Round, RowSum, Rsqrt, add, mul, product
from archc.rows.value import Program, Row

EPS = 1e-6


def leaves(*values: Row) -> dict[str, Row]:
    """Takes by their names."""
    return {v.rule.name: v for v in values}  # pyright: ignore[reportAttributeAccessIssue]


def inverse_rms(x: Row, width: int) -> Row:
    """1 / sqrt(mean of squares + eps)"""
    letters = "abcd"[: len(x.streams)]
    squares = x.program.named("squares", x.program.make(RowSum(), product(f"{letters},{letters}->{letters}", x, x)))
    return x.program.make(Rsqrt(), add(mul(squares, 1 / width), EPS))


def add_norm(width: int) -> Kernel:
    """A residual, and its norm."""
    p = Program()
    x, y = (p.make(Input(name=n, row=True, format="act")) for n in ("x", "y"))
    weight = p.make(Param(name="weight", row=True, format="act"))
    total = p.named("total", p.make(Round(format="act"), add(x, y)))
    h = p.named("h", mul(mul(total, inverse_rms(total, width)), weight))
    return Kernel("add_norm", width, leaves(x, y, weight), {"total": total, "h": h}, {"total": "act", "h": "act"})
