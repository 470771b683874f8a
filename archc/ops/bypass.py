"""Tokens that skip layers: how sure a model is of each, and what layers hand on of those it is sure of.

Confidence [B, S] is 1 where a token skips what follows and 0 where it does not; in training anything between, and a
layer then blends what it got and what it made.
"""

from __future__ import annotations

import ast

from archc.ops.base import B, Op, S, Type, expr, need
from archc.ops.loss import Loss
from archc.ops.row import RowOp
from archc.ops.tape import Tape, Tensor


class Unsure(RowOp):
    """The confidence in tokens that nothing has vouched for, beside x [B, S, ...]: 0 [B, S]."""

    needs = {"unsure": "kernels.bypass"}

    def infer(self, x: Type) -> Type:
        return Type((B, S), "fp32")

    def run(self, t: Tape, x: Tensor) -> Tensor:
        return t.new(x.shape[:2], max(4, x.width))

    def code(self, x: ast.expr) -> ast.expr:
        return expr("unsure(x)", x=x)


class Decide(RowOp):
    """1 where the confidence is above the threshold, else 0, which has no gradient; in training the confidence itself.

    It is above 1 nowhere: with a threshold of 1 no token skips anything.
    """

    island = True
    threshold: float

    def infer(self, confidence: Type) -> Type:
        need(confidence.shape == (B, S), f"decides by {confidence}, not by one number a token")
        return confidence

    def run(self, t: Tape, confidence: Tensor) -> Tensor:
        return confidence

    def code(self, confidence: ast.expr) -> ast.expr:
        return expr("step.decide(confidence, threshold=t)", confidence=confidence, t=self.threshold)


class Either(RowOp):
    """a + b - a b: of two confidences [B, S], that either is right."""

    needs = {"either": "kernels.bypass"}
    island = True

    def infer(self, a: Type, b: Type) -> Type:
        need(a.shape == b.shape == (B, S), f"joins confidences {a} and {b}")
        return a

    def run(self, t: Tape, a: Tensor, b: Tensor) -> Tensor:
        return t.add(t.add(a, b), t.mul(a, b))

    def code(self, a: ast.expr, b: ast.expr) -> ast.expr:
        return expr("either(a, b)", a=a, b=b)


class Hold(RowOp):
    """What a layer hands on [B, S, ...]: c ``before`` + (1 - c) ``after``, for the confidence c [B, S] of each token.

    Exactly ``before`` at 1 and ``after`` at 0, in the dtype of ``before``.
    """

    needs = {"hold": "kernels.bypass"}

    def infer(self, before: Type, after: Type, confidence: Type) -> Type:
        need(
            before.shape == after.shape and confidence.shape == before.shape[:2],
            f"holds {before} against {after} by confidence {confidence}",
        )
        return before

    def run(self, t: Tape, before: Tensor, after: Tensor, confidence: Tensor) -> Tensor:
        after, weight = t.to(after, before.width), t.to(confidence, before.width)
        return t.made_of(t.new(before.shape, before.width), (before, after, weight), (before, after, weight))

    def code(self, before: ast.expr, after: ast.expr, confidence: ast.expr) -> ast.expr:
        return expr("hold(before, after, confidence)", before=before, after=after, confidence=confidence)


class Depth(Loss):
    """The part of the layers behind a bypass that tokens go through: the mean of 1 - confidence, padding left out.

    What makes a model confident: without it, a layer that does not help is all that a token has to gain by skipping.
    """

    name = "bypass"
    needs = {"bypass_depth": "kernels.bypass"}
    island = True

    def infer(self, confidence: Type, time: Type) -> tuple[Type, ...]:
        need(confidence.shape == (B, S), f"counts layers by {confidence}, not by one number a token")
        return ()

    def run(self, t: Tape, confidence: Tensor, time: None) -> None:
        valid, count = t.new(confidence.shape, 1), t.new((), 8)
        t.losses.append(t.div(t.sum(t.sum(t.mul(t.add(confidence), valid), -1), -1), count))

    def code(self, confidence: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "step.add_loss(name, bypass_depth, c, time, weight=w)",
            name=self.name,
            c=confidence,
            time=time,
            w=self.weight,
        )


def holds(op: Op) -> bool:
    """Whether an op gives back its first operand unchanged where the confidence among its operands is 1."""
    return isinstance(op, Hold | Either)
