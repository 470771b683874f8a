"""Attention over picked tokens of which only latents are kept."""

from __future__ import annotations

import ast
from typing import Any

from archc.ops.base import Type, Workload, expr, need, numel, size
from archc.ops.latent import OverLatents
from archc.ops.schedules import schedule
from archc.ops.sparse import IndexDivergence, visible_entries
from archc.ops.tape import Tape, Tensor


class SparseLatentAttend(OverLatents):
    """softmax(q k^T * scale) v over the tokens that a query picked, where k and v are linear maps of one latent per
    token: q [B, S, H, nope + R], entries [B, T, C + R], weight [H * (nope + V), C], picks [B, S, K] -> [B, S, H, V].

    Entries and weight are those of `LatentAttend`; -1 picks none. Runs in latent space. With ``lse`` it also gives the
    log-sum-exp of the logits of every softmax [B, S, H], a constant made where an index loss wants it.
    """

    needs = {
        "sparse_latent_attend": "kernels.sparse_latent_attend",
        "sparse_latent_attend_lse": "kernels.sparse_latent_attend",
    }
    trained_as = "in latent space"
    lse: bool = False

    def infer(self, q: Type, entries: Type, weight: Type, time: Type, picks: Type) -> Type | tuple[Type, Type]:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = super().infer(q, entries, weight, time)
        need(picks.shape[:2] == q.shape[:2], f"picks {picks} of queries {q}")
        return (out, Type(q.shape[:3], "fp32")) if self.lse else out

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, entries, weight, _, picks = ins
        heads, latent, values, wide = q.fixed(2), weight.last, outs[0].last, entries.last
        most = size(picks.shape[2], w)
        pairs = schedule("sparse_blocks").latent_pairs(
            batch=w.batch,
            heads=heads,
            width=wide,
            past=w.past,
            new=w.new,
            entries=size(entries.shape[1], w),
            picks=most,
        )
        mapped = 2 * w.batch * w.new * heads * latent
        met = 2 * w.batch * pairs * heads * (wide + latent)
        executed = mapped * (self.nope + values) + met
        # The gradient maps queries and computes the weights and what they read again
        backward = mapped * (3 * self.nope + 2 * values) + 3 * met
        useful = mapped * (self.nope + values) + 2 * heads * visible_entries(w, 1, most) * (q.last + values)
        return executed, useful, backward

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Of the entries only the picked are read."""
        return 1.0, self.met(w, ins)[1], 1.0, 1.0, 1.0

    def met(self, w: Workload, ins: tuple[Type, ...]) -> tuple[int, float, int]:
        entries, picks = ins[1], ins[4]
        chosen, there = numel(picks.shape, w), numel(entries.shape[:2], w)
        pairs = visible_entries(w, 1, size(picks.shape[2], w))
        return pairs, min(1.0, chosen / there) if there else 1.0, 8 * chosen // w.act

    def run(self, t: Tape, q: Tensor, entries: Tensor, weight: Tensor, time: None, picks: Tensor) -> Any:
        (*tokens, heads, _), rows = q.shape, weight.shape[0]
        out = t.new((*tokens, heads, rows // heads - self.nope), q.width)
        lse = t.new((*tokens, heads), max(4, q.width)) if self.lse else None
        t.product(out, *([] if lse is None else [lse]))
        forward, backward = self._work(q, entries, weight, picks)
        t.use_once(forward)
        ins = q, entries, weight
        out = t.made_of(out, ins, (*ins, picks, out), work=backward)
        return out if lse is None else (out, lse)

    def _work(self, q: Tensor, entries: Tensor, weight: Tensor, picks: Tensor) -> tuple[int, int]:
        """Bytes of the largest block, forward and backward: mapped queries and what they meet beside logits and their
        exponentials; then the weights beside gradients of logits and of what met.
        """
        (batch, new, heads, _), (_, count, width), latent = q.shape, entries.shape, weight.shape[1]
        wide, own = max(4, q.width), q.width
        gathered, blocks = schedule("sparse_blocks").latent_blocks(
            batch=batch, heads=heads, width=width, past=0, new=new, entries=count, picks=picks.shape[2]
        )
        casts, forward, backward = own < wide, 0, 0
        for start, stop, columns in blocks:
            tokens = batch * (stop - start)
            rows, within = tokens * heads * width, tokens * heads * latent
            others = (tokens if gathered else batch) * columns * width
            logits = tokens * heads * columns
            held = wide * rows + (wide * others if gathered or casts else 0)
            mapped = own * (rows + within) + (wide * rows if casts else 0)
            marks = tokens * columns * (17 if gathered else 2)
            forward = max(forward, mapped, held + 2 * wide * logits + marks, held + wide * (logits + within))
            kept = held + wide * logits + marks
            both = (tokens if gathered else batch) * columns * (width + latent)
            learned = wide * (within + logits + rows + both)
            backward = max(backward, mapped, kept + wide * logits, kept + learned)
        return forward, backward + wide * (entries.numel + weight.numel)

    def code(self, q: ast.expr, entries: ast.expr, weight: ast.expr, time: ast.expr, picks: ast.expr) -> ast.expr:
        name = "sparse_latent_attend_lse" if self.lse else "sparse_latent_attend"
        return expr(
            f"{name}(q, entries, weight, time, nope=nope, scale=scale, picks=picks, wanted=wanted)",
            q=q,
            entries=entries,
            weight=weight,
            time=time,
            nope=self.nope,
            scale=self.scale,
            picks=picks,
            wanted=expr("step.wants(name)", name=IndexDivergence.name) if self.lse else None,
        )
