"""Ops of `archc.ops.rounding` as row values."""

from __future__ import annotations

import math

from archc.ops import rounding
from archc.rows import few_bits
from archc.rows import rules as r
from archc.rows.lower.lowering import BLOCKS, REASONS, Lowering, Term, Unfit, rule

REASONS[rounding.Hadamard] = "every channel of a row becomes a sum of all"
BLOCKS[rounding.Quantise] = lambda op, x: min(rounding.GROUP[op.to], x.last)


@rule(rounding.Quantise)
def _quantise(low: Lowering, op: rounding.Quantise, x: Term) -> Term:
    group = min(rounding.GROUP[op.to], x.dims[-1])
    if not x.row.row or group != low.width:
        raise Unfit(f"groups of {group} channels share a scale, which are no rows of {low.width}")
    letters, form, make = "abcd"[: len(x.row.streams)], few_bits.FORMATS[op.to], low.make
    top = make(r.RowMax(), make(few_bits.Size(), x.row))
    scale = make(form.scale, make(r.Clip(low=form.least, high=math.inf), top))
    numbers = r.product(f"{letters},{letters}->{letters}", x.row, r.recip(scale))
    near = few_bits.rounded(numbers, make(form.step, numbers))
    made = r.product(f"{letters},{letters}->{letters}", near, scale)
    return low.like(make(few_bits.Through(), x.row, made), x)
