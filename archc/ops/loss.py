"""What a forward leaves behind beside its results: terms of the training loss, and what is counted for later."""

from __future__ import annotations

import ast
import math
from typing import ClassVar

from archc.ops.base import NOTHING, Cost, Op, Type, Workload, expr, need
from archc.ops.tape import Tape, Tensor


class Effect(Op, abstract=True):
    """Base of the family. An effect prints as a call of the step, which knows whether it is wanted."""

    effect = True

    def infer(self, *ins: Type) -> tuple[Type, ...]:
        return ()

    def arithmetic(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        """As `cost`: none without a backward."""
        return NOTHING if w.cached else super().arithmetic(w, ins, outs)

    def cost(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        """What it reads, in training alone."""
        return NOTHING if w.cached else super().cost(w, ins, outs)


class Record(Effect):
    """Keeps x for the caller who asks for hidden states."""

    def cost(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        return NOTHING

    def arithmetic(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        return NOTHING

    def run(self, t: Tape, x: Tensor) -> None:
        pass

    def code(self, x: ast.expr) -> ast.expr:
        return expr("step.record(x)", x=x)


class Loss(Effect, abstract=True):
    """Base of the terms of the training loss, which count ``weight`` times in it.

    A term is evaluated only where the caller gave labels, and is reported unweighted.
    """

    name: ClassVar[str]
    """What the loss is called in ``out.losses``."""
    weight: float


class SequenceBalance(Loss):
    """What experts of unequal load cost a sequence, summed over the layers: sum over experts of f P, where f is an
    expert's share of the choices (1 is even) and P its mean score, the scores of a token adding up to 1 (DeepSeek-V2,
    arXiv:2405.04434).

    scores [B, S, E], ids of the chosen experts [B, S, K]. The mean over all sequences; padding never counts.
    """

    name = "balance"
    needs = {"sequence_balance": "kernels.balance"}
    island = True

    def infer(self, scores: Type, ids: Type, time: Type) -> tuple[Type, ...]:
        return _balanced(scores, ids)

    def run(self, t: Tape, scores: Tensor, ids: Tensor, time: None) -> None:
        *some, experts = scores.shape
        weight, length = (t.new((math.prod(some),), scores.width) for _ in range(2))
        loads = t.new((math.prod(some), experts), scores.width)
        share = t.div(scores, t.add(t.sum(scores, -1, keep=True)))
        met = t.sum(t.mul(loads, t.reshape(share, loads.shape)), -1)
        met = t.sum(t.div(t.mul(weight, met), length), 0)
        t.losses.append(t.div(t.scaled(met), t.new((), 8)))

    def code(self, scores: ast.expr, ids: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "step.add_loss(name, sequence_balance, scores, ids, time, weight=w)",
            name=self.name,
            scores=scores,
            ids=ids,
            time=time,
            w=self.weight,
        )


class BatchBalance(Loss):
    """What experts of unequal load cost the tokens of a call, all layers together: the product of an expert's choices
    per token and its mean probability, summed over experts, times their number (Switch Transformer, arXiv:2101.03961).

    scores [B, S, E], probabilities; ids of the chosen experts [B, S, K]. Padding never counts.
    """

    name = "balance"
    needs = {"batch_balance": "kernels.balance", "batch_shares": "kernels.balance"}
    island = True

    def infer(self, scores: Type, ids: Type, time: Type) -> tuple[Type, ...]:
        return _balanced(scores, ids)

    def run(self, t: Tape, scores: Tensor, ids: Tensor, time: None) -> None:
        *some, experts = scores.shape
        weight = t.new((*some, 1), scores.width)
        score = t.sum(t.sum(t.mul(scores, weight), 0), 0)
        shares = t.made_of(t.new((3, experts), scores.width), (score,))
        t.losses.append(shares)
        t.sums[self.weight, experts] = shares.width, t.owner

    def code(self, scores: ast.expr, ids: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "step.add_loss(name, batch_shares, scores, ids, time, weight=w, finish=batch_balance)",
            name=self.name,
            scores=scores,
            ids=ids,
            time=time,
            w=self.weight,
        )


def _balanced(scores: Type, ids: Type) -> tuple[Type, ...]:
    need(
        len(scores.shape) == 3 and scores.shape[:2] == ids.shape[:2] and ids.last <= scores.last,
        f"balances scores {scores} by choices {ids}",
    )
    return ()


class CountLoads(Effect):
    """Counts the tokens that chose each expert, by which `after_step` moves a router's bias (DeepSeek-V3,
    arXiv:2412.19437): up by ``rate`` for experts with less than the mean load, down for those with more.

    bias [E], ids of the chosen experts [B, S, K]. Only in training, without a cache; padding never counts.
    """

    rate: float

    def infer(self, bias: Type, ids: Type) -> tuple[Type, ...]:
        need(len(bias.shape) == 1 and ids.last <= bias.last, f"counts choices {ids} for a bias {bias}")
        return ()

    def run(self, t: Tape, bias: Tensor, ids: Tensor) -> None:
        """Nothing of it has a gradient."""

    def code(self, bias: ast.expr, ids: ast.expr) -> ast.expr:
        return expr("step.count_loads(bias, ids, rate=rate)", bias=bias, ids=ids, rate=self.rate)
