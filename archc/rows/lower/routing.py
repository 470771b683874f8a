"""Scores of experts and confidences in tokens, as row values; what of them is none."""

from __future__ import annotations

from archc.ops import bypass, expert
from archc.rows import pointwise as pw
from archc.rows import rules as r
from archc.rows.lower.lowering import REASONS, Leaf, Lowering, Term, pointwise, rule

pointwise(expert.SqrtSoftplus, lambda op: pw.SqrtSoftplus())

REASONS[expert.Topk] = "the largest of a row are found by comparing its channels with one another"
REASONS[expert.GroupMask] = "groups of experts are compared with one another"
REASONS[expert.Gather] = "ids say which channels are read"
REASONS[bypass.Decide] = "training and inference differ in what they decide"


@rule(bypass.Unsure, raw=(0,))
def _unsure(low: Lowering, op: bypass.Unsure, x: Leaf) -> Term:
    return low.term(r.const(low.program, 0.0), ())


@rule(bypass.Either)
def _either(low: Lowering, op: bypass.Either, a: Term, b: Term) -> Term:
    both = low.times(a, b)
    return low.plus(low.plus(a, b), low.like(r.mul(both.row, -1.0), both))


@rule(bypass.Hold)
def _hold(low: Lowering, op: bypass.Hold, before: Term, after: Term, confidence: Term) -> Term:
    """Two products: one is nothing where the confidence is 0 or 1, so the other is exact."""
    rest = r.add(1.0, r.mul(confidence.row, -1.0))
    letters = "abcd"[: len(before.row.streams)]
    parts = (r.product(f",{letters}->{letters}", c, x.row) for c, x in ((confidence.row, before), (rest, after)))
    return low.like(r.add(*parts), before)
