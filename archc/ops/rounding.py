"""Channels as kernels of few bits read them."""

from __future__ import annotations

import ast
from typing import Literal

from archc.ops.base import Type, expr, need
from archc.ops.row import RowOp
from archc.ops.tape import Tape, Tensor

GROUP = {"fp8": 128, "fp4": 32}
"""Channels that share a scale."""


class Hadamard(RowOp):
    """x times the Hadamard matrix over the last dim, times its width^-1/2: the width is a power of two."""

    needs = {"hadamard": "kernels.hadamard"}

    def infer(self, x: Type) -> Type:
        need(not x.last & (x.last - 1), f"a Hadamard transform of {x.last} channels, which are no power of two")
        return x

    def run(self, t: Tape, x: Tensor) -> Tensor:
        # Differences of half the channels are apart; of a narrow x the sums are in float32, beside the result
        wide = max(4, x.width)
        beside = x.numel * wide // 2 if wide == x.width else x.numel * wide
        out = t.made_of(t.new(x.shape, x.width), (x,), work=beside)
        t.use(beside)
        return out

    def code(self, x: ast.expr) -> ast.expr:
        return expr("hadamard(x)", x=x)


class Quantise(RowOp):
    """x rounded to FP8 in groups of 128 channels or to FP4 in groups of 32, with a power of two as the scale of each;
    gradients pass straight through.
    """

    needs = {"quantise": "kernels.quantise"}
    to: Literal["fp8", "fp4"]

    def infer(self, x: Type) -> Type:
        group = GROUP[self.to]
        need(x.last < group or x.last % group == 0, f"{x.last} channels are not whole groups of {group}")
        return x

    def run(self, t: Tape, x: Tensor) -> Tensor:
        out = t.made_of(t.new(x.shape, x.width), (x,), passes=True)
        t.use((2 if x.width == 4 else 4) * x.numel * 4)  # in float32: scaled, steps between numbers; x and the result
        return out

    def code(self, x: ast.expr) -> ast.expr:
        return expr("quantise(x, to=to)", x=x, to=self.to)
