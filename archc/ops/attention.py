"""Attention over keys and values that are given."""

from __future__ import annotations

import ast
from typing import Any

from archc.ops.attended import attended
from archc.ops.base import Op, Type, Workload, expr, need, size
from archc.ops.schedules import schedule
from archc.ops.tape import Tape, Tensor


def visible_pairs(w: Workload, window: int | None) -> int:
    """Query-key pairs that causality (and a window) leaves, over all rows."""
    first, last = w.past + 1, w.past + w.new
    if window is None or last <= window:
        pairs = (first + last) * w.new // 2
    elif first >= window:
        pairs = window * w.new
    else:
        ramp = window - first
        pairs = (first + window - 1) * ramp // 2 + window * (w.new - ramp)
    return w.batch * pairs


def attention_flops(
    w: Workload,
    *,
    keys: int,
    heads: int,
    groups: int,
    width: int,
    value_width: int,
    window: int | None = None,
    sinks: bool = False,
) -> tuple[int, int]:
    """FLOPs that the kernel `attend` executes over ``keys`` keys, and those of its gradient."""
    blocks = schedule("blocks")
    sizes = {"new": w.new, "heads": heads, "groups": groups, "width": width, "value_width": value_width}
    stored = blocks.stores_scores(sinks=sinks, **sizes)
    pairs = w.batch * blocks.scored_pairs(
        batch=w.batch, heads=heads, new=w.new, keys=keys, window=window, materialise=stored
    )
    if stored:
        executed = 2 * heads * pairs * (width + value_width)
        return executed, 2 * executed
    # Fused, all are as wide as the widest; its gradient computes the scores again: five products where the forward
    # has two.
    executed = 2 * heads * pairs * 2 * max(width, value_width)
    return executed, executed * 5 // 2


class Attend(Op):
    """softmax(q k^T * scale) v over the keys a token may see:
    q [B, S, H, D], keys [B, T, G, D], values [B, T, G, V] -> [B, S, H, V].

    Query head h reads key head h * G // H. ``window`` keeps the last tokens, the query's own included; with it, keys
    are a `Recall`, without it an `Append`. ``sinks`` [H] are logits that take mass and give no value.
    """

    fused = "attention"
    needs = {"attend": "kernels.attend"}
    scale: float
    window: int | None = None

    def infer(self, q: Type, keys: Type, values: Type, time: Type, sinks: Type | None = None) -> Type:
        need(q.last == keys.last, f"queries have {q.last} channels, keys {keys.last}")
        need(keys.shape[:3] == values.shape[:3], f"keys {keys} and values {values}")
        heads, groups = q.shape[2], keys.shape[2]
        need(
            isinstance(heads, int) and isinstance(groups, int) and heads % groups == 0,
            f"{groups} key heads do not divide {heads} query heads",
        )
        need(sinks is None or sinks.shape == (heads,), f"{sinks} sinks for {heads} heads")
        return Type((*q.shape[:-1], values.last), q.dtype)

    def learns(self, ins: tuple[Any, ...]) -> tuple[Any, ...]:
        # A token that sees itself alone gives it all its attention, whatever queries and keys are
        return ins[2:3] if self.window == 1 and len(ins) == 4 else ins

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, keys, values = ins[:3]
        heads = q.fixed(2)
        executed, backward = attention_flops(
            w,
            keys=size(keys.shape[1], w),
            heads=heads,
            groups=keys.fixed(2),
            width=q.last,
            value_width=values.last,
            window=self.window,
            sinks=len(ins) > 4,
        )
        return executed, 2 * heads * visible_pairs(w, self.window) * (q.last + values.last), backward

    def run(self, t: Tape, q: Tensor, keys: Tensor, values: Tensor, time: None, sinks: Tensor | None = None) -> Tensor:
        return attended(t, q, keys, values, window=self.window, sinks=sinks)

    def code(
        self, q: ast.expr, keys: ast.expr, values: ast.expr, time: ast.expr, sinks: ast.expr | None = None
    ) -> ast.expr:
        return expr(
            "attend(q, keys, values, time, scale=scale, window=window, sinks=sinks)",
            q=q,
            keys=keys,
            values=values,
            time=time,
            scale=self.scale,
            window=self.window,
            sinks=sinks,
        )
