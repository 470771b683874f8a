"""Attention over a window and chosen entries, the scores that choose them, and the loss that teaches those."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from archc.ops.attention import visible_pairs
from archc.ops.base import B, Cost, Dim, Op, S, Type, Workload, expr, need, numel, size
from archc.ops.loss import Loss
from archc.ops.schedules import schedule
from archc.ops.tape import Tape, Tensor


def visible_entries(w: Workload, every: int, most: int | None = None) -> int:
    """Query-entry pairs over all rows: token t sees (t + 1) // every entries, or ``most`` where that is less."""

    def below(n: int) -> int:
        """The sum of t // every for t from 0 to n."""
        whole, rest = divmod(n + 1, every)
        return every * whole * (whole - 1) // 2 + whole * rest

    first, last = w.past + 1, w.past + w.new
    if most is None:
        return w.batch * (below(last) - below(first - 1))
    bend = min(max(most * every, first), last + 1)  # tokens from here on see more than they may choose
    return w.batch * (below(bend - 1) - below(first - 1) + most * (last + 1 - bend))


class IndexTopk(Op):
    """Ids of the k entries with the best index scores that a token sees, -1 where there are fewer [B, S, min(k, E)].

    The score of an entry is the sum over heads of weight * relu(q . key): q [B, S, H, D], keys [B, E, D], weights
    [B, S, H]. A choice has no gradient. While an index loss is in its dense stage there is none: every entry is
    attended to.
    """

    fused = "index"
    needs = {"index_topk": "kernels.index_topk"}
    k: int
    every: int = 1

    def infer(self, q: Type, keys: Type, weights: Type, time: Type) -> Type:
        need(q.last == keys.last, f"index queries have {q.last} channels, index keys {keys.last}")
        need(weights.shape == q.shape[:3], f"{weights} weights for index queries {q}")
        entries = keys.shape[1]
        return Type((B, S, Dim(f"min({self.k}, {entries})", lambda w: min(self.k, size(entries, w)))), "int")

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, keys = ins[:2]
        heads = q.fixed(2)
        pairs = schedule("sparse_blocks").index_pairs(
            batch=w.batch, heads=heads, past=w.past, new=w.new, every=self.every, entries=size(keys.shape[1], w)
        )
        executed = 2 * heads * (q.last + 1) * w.batch * pairs  # the sum over heads is a product too
        return executed, 2 * heads * q.last * visible_entries(w, self.every), 0

    def run(self, t: Tape, q: Tensor, keys: Tensor, weights: Tensor, time: None) -> Tensor:
        picks = t.new((*q.shape[:2], min(self.k, keys.shape[1])), 8)
        t.product(picks)
        t.use_once(self._work(q, keys, q.shape[1], keys.shape[1]))
        return picks

    def _work(self, q: Tensor, keys: Tensor, new: int, entries: int) -> int:
        """Bytes of the largest block of the first ``new`` queries and ``entries``: products of every head beside
        scores, or what orders those without ties.
        """
        (batch, _, heads, width), wide = q.shape, max(4, q.width)
        blocks = schedule("sparse_blocks").index_blocks(
            batch=batch, heads=heads, past=0, new=new, every=self.every, entries=entries
        )
        casts, most = q.width < wide, 0
        for start, stop, seen in blocks:
            scores = batch * (stop - start) * seen
            rows = batch * (stop - start) * heads * width * (casts or (batch > 1 and stop - start < q.shape[1]))
            # An order without ties is of two whole numbers for each score, beside its bits, and gives two for each pick
            ordered = 20 * scores + 16 * batch * (stop - start) * min(self.k, seen)
            most = max(most, wide * (rows + scores * (heads + 1)), wide * (rows + scores) + ordered)
        return most + casts * wide * batch * entries * width

    def code(self, q: ast.expr, keys: ast.expr, weights: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "step.pick(index_topk, q, keys, weights, time, k=k, every=every)",
            q=q,
            keys=keys,
            weights=weights,
            time=time,
            k=self.k,
            every=None if self.every == 1 else self.every,
        )


class SparseAttention(Op):
    """One softmax over a window, compressed entries and a sink, keys being their own values, one for all heads [B,
    S, H, D].

    q [B, S, H, D]; a `Recall` [B, R, D] that reaches back over window - 1 tokens; time; then, where there are any,
    sinks [H] (``sink`` says whether), entries [B, E, D], one per ``every`` tokens, and picks [B, S, K] of them. With
    ``lse`` it also gives the log-sum-exp of the logits of every softmax [B, S, H], a constant made where an index loss
    wants it.
    """

    fused = "attention"
    needs = {
        "sparse_attention": "kernels.sparse_attention",
        "sparse_attention_lse": "kernels.sparse_attention",
    }
    scale: float
    window: int
    every: int = 1
    sink: bool = True
    lse: bool = False

    def _optional(self, operands: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        """Sinks, entries and picks, None where they are left out, of the operands after time."""
        given = iter(operands)
        return next(given, None) if self.sink else None, next(given, None), next(given, None)

    def infer(
        self,
        q: Type,
        recent: Type,
        time: Type,
        sinks: Type | None = None,
        entries: Type | None = None,
        picks: Type | None = None,
    ) -> Type | tuple[Type, Type]:
        sinks, entries, picks = self._optional((sinks, entries, picks))
        need(q.last == recent.last, f"queries have {q.last} channels, window keys {recent.last}")
        need(len(recent.shape) == 3, f"window keys are shared by all heads, got {recent}")
        need(sinks is None or sinks.shape == q.shape[2:3], f"{sinks} sinks for queries {q}")
        need(entries is None or entries.last == q.last, f"queries have {q.last} channels, entries {entries}")
        return (q, Type(q.shape[:3], "fp32")) if self.lse else q

    def learns(self, ins: tuple[Any, ...]) -> tuple[Any, ...]:
        # As in `Attend`: one key, and no sink, takes all attention whatever the query is
        return ins[1:2] if self.window == 1 and len(ins) == 3 else ins

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, recent = ins[:2]
        heads = q.fixed(2)
        _, far, picked = self._optional(ins[3:])
        entries = 0 if far is None else size(far.shape[1], w)
        picks = None if picked is None else size(picked.shape[2], w)
        pairs = schedule("sparse_blocks").attention_pairs(
            batch=w.batch,
            heads=heads,
            dim=q.last,
            past=w.past,
            new=w.new,
            kept=size(recent.shape[1], w) - w.new,
            window=self.window,
            every=self.every,
            entries=entries,
            picks=picks,
        )
        pair = 4 * heads * q.last
        executed = pair * w.batch * pairs
        useful = visible_pairs(w, self.window) + (0 if far is None else visible_entries(w, self.every, picks))
        # The gradient computes the weights again: five products where the forward has two.
        return executed, pair * useful, executed * 5 // 2

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Of entries that are picked only the picked are read."""
        _, entries, picks = self._optional(ins[3:])
        if picks is None or not (there := numel(entries.shape[:2], w)):
            return (1.0,) * len(ins)
        part = min(1.0, numel(picks.shape, w) / there)
        return tuple(part if t is entries else 1.0 for t in ins)

    def run(self, t: Tape, q: Tensor, recent: Tensor, time: None, *rest: Tensor) -> Any:
        sinks, entries, picks = self._optional(rest)
        if entries is not None and not entries.shape[1]:
            entries = picks = None
        sinks = t.new(q.shape[2:3], max(4, q.width)) if sinks is None else sinks
        ins = [x for x in (q, recent, sinks, entries) if x is not None]
        out, lse = t.new(q.shape, q.width), t.new(q.shape[:3], max(4, q.width))
        t.product(out, *([lse] if self.lse else []))
        forward, backward = self._work(q, recent, entries, picks)
        t.use(forward)
        out = t.made_of(out, ins, (*ins, picks, out), work=backward)
        return (out, lse) if self.lse else out

    def _work(self, q: Tensor, recent: Tensor, entries: Tensor | None, picks: Tensor | None) -> tuple[int, int]:
        """Bytes of the largest block, forward and backward: logits apart, side by side and their softmax live at once,
        beside copies of what meets; then the softmax beside gradients of logits and of what met.
        """
        (batch, new, heads, dim), wide = q.shape, max(4, q.width)
        look, gathered, blocks = schedule("sparse_blocks").attention_blocks(
            batch=batch,
            heads=heads,
            dim=dim,
            past=0,
            new=new,
            kept=recent.shape[1] - new,
            window=self.window,
            every=self.every,
            entries=0 if entries is None else entries.shape[1],
            picks=None if picks is None else picks.shape[2],
        )
        casts = q.width < wide
        sums = 0 if entries is None else entries.numel
        sums += batch * (look + new + max(b.rows for b in blocks)) * dim
        forward = backward = 0
        for block in blocks:
            n = block.stop - block.start
            logits = batch * n * heads * (look + block.rows + block.entries)
            rows = batch * n * heads * dim
            keys = batch * (n // block.rows) * (look + block.rows) * dim
            others = batch * (n if gathered else 1) * block.entries * dim
            copied = rows * (casts or (batch > 1 and n < new)) + keys * (casts or n > block.rows)
            copied += others * (gathered or casts)
            weights = logits + batch * n * heads
            made = copied + logits + 2 * weights
            forward = max(forward, made, copied + weights + rows)
            near = batch * n * heads * (look + block.rows)
            learned = max(2 * keys + near, keys + 2 * others + logits if others else 0)
            backward = max(backward, made, copied + weights + 2 * rows + learned)
        return wide * forward, wide * (backward + sums)

    def code(
        self,
        q: ast.expr,
        recent: ast.expr,
        time: ast.expr,
        sinks: ast.expr | None = None,
        entries: ast.expr | None = None,
        picks: ast.expr | None = None,
    ) -> ast.expr:
        sinks, entries, picks = self._optional((sinks, entries, picks))
        name = "sparse_attention_lse" if self.lse else "sparse_attention"
        return expr(
            f"{name}(q, recent, sinks, time, scale=scale, window=window, entries=entries, picks=picks,"
            " every=every, wanted=wanted)",
            q=q,
            recent=recent,
            sinks=ast.Constant(value=None) if sinks is None else sinks,
            time=time,
            scale=self.scale,
            window=self.window,
            entries=entries,
            picks=picks,
            every=self.every if entries is not None and self.every != 1 else None,
            wanted=expr("step.wants(name)", name=IndexDivergence.name) if self.lse else None,
        )


class IndexDivergence(Loss):
    """What trains an indexer: KL(p || softmax(I)) over the entries that a query attends to, p being the weight that
    attention gives each, summed over heads and normalised over those entries; the mean over the queries that attend
    to one, summed over layers (DeepSeek-V3.2; DeepSeek-V4, arXiv:2606.19348, section 2.3).

    index_q [B, S, I, C], index_keys [B, E, C] and weights [B, S, I] of the scores, as `IndexTopk` takes them; q,
    entries and picks of the attention, as `SparseAttention` takes them, and the ``lse`` that it gives. Where ``nope``
    is given, those of `SparseLatentAttend`, whose weight comes after time. Attention is a constant: only the scores
    learn.
    """

    fused = "index"
    name = "index"
    needs = {"index_divergence": "kernels.index_divergence"}
    scale: float
    every: int = 1
    nope: int | None = None

    def _optional(self, operands: tuple[Any, ...]) -> tuple[Any, Any]:
        """The weight of latents and the picks, None where they are left out, of the operands after time."""
        given = iter(operands)
        return next(given, None) if self.nope is not None else None, next(given, None)

    def infer(
        self,
        index_q: Type,
        index_keys: Type,
        index_weights: Type,
        q: Type,
        entries: Type,
        lse: Type,
        time: Type,
        *rest: Type,
    ) -> tuple[Type, ...]:
        weight, _ = self._optional(rest)
        need(index_q.last == index_keys.last, f"index queries have {index_q.last} channels, index keys {index_keys}")
        need(index_weights.shape == index_q.shape[:3], f"{index_weights} weights for index queries {index_q}")
        within = q.last if weight is None or self.nope is None else q.last - self.nope + weight.last
        need(within == entries.last, f"queries have {within} channels, entries {entries}")
        need(index_keys.shape[1] == entries.shape[1], f"index keys {index_keys} are not of the entries {entries}")
        need(lse.shape == q.shape[:3], f"log-sum-exp {lse} of queries {q}")
        return ()

    def learns(self, ins: tuple[Any, ...]) -> tuple[Any, ...]:
        return ins[:3]

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        index_q, index_keys, _, q, entries = ins[:5]
        weight, picks = self._optional(ins[7:])
        of_index, of_attention = 2 * index_q.fixed(2) * index_q.last, 2 * q.fixed(2) * entries.last
        mapped = 0 if weight is None else 2 * w.batch * w.new * q.fixed(2) * weight.last * (self.nope or 0)
        pairs = schedule("sparse_blocks").divergence_pairs(
            batch=w.batch,
            heads=max(index_q.fixed(2), q.fixed(2)),
            past=w.past,
            new=w.new,
            every=self.every,
            entries=size(index_keys.shape[1], w),
            picks=None if picks is None else size(picks.shape[2], w),
        )
        # Scores and logits were computed before, for the choice and for attention.
        return mapped + w.batch * pairs * (of_index + of_attention), 0, w.batch * pairs * 2 * of_index

    def arithmetic(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> Cost:
        """As of every effect; what is needed of the gradient are two products for each entry attended to."""
        index_q, picks = ins[0], self._optional(ins[7:])[1]
        most = None if picks is None else size(picks.shape[2], w)
        learned = 4 * index_q.fixed(2) * index_q.last * visible_entries(w, self.every, most)
        return replace(super().arithmetic(w, ins, outs), useful_backward=0 if w.cached else learned)

    def run(
        self,
        t: Tape,
        index_q: Tensor,
        index_keys: Tensor,
        index_weights: Tensor,
        q: Tensor,
        entries: Tensor,
        lse: Tensor,
        time: None,
        *rest: Tensor,
    ) -> None:
        """Its gradient is made along with it: that is what it keeps."""
        index, wide = (index_q, index_keys, index_weights), max(4, index_q.width)
        made = [*(t.new(x.shape, x.width) for x in index), t.new((), wide)]
        loss = t.new((), wide)
        t.product(loss, *made)
        weight, picks = self._optional(rest)
        t.use_once(self._work(index_q, q, entries, picks, latent=0 if weight is None else weight.shape[1]))
        t.losses.append(t.made_of(loss, index, made))

    def _work(self, index_q: Tensor, q: Tensor, entries: Tensor, picks: Tensor | None, *, latent: int) -> int:
        """Bytes of the largest block: logits of attention beside what met; then products of the index, what is left of
        them and their gradients beside the keys, and some numbers for each pair. Queries of latents are mapped first.
        """
        (batch, new, heads, _), (index, width), wide = q.shape, index_q.shape[2:], max(4, q.width)
        dim = entries.shape[2]
        gathered, blocks = schedule("sparse_blocks").divergence_blocks(
            batch=batch,
            heads=max(heads, index),
            width=max(dim, width),
            past=0,
            new=new,
            every=self.every,
            entries=entries.shape[1],
            picks=None if picks is None else picks.shape[2],
        )
        casts, most = q.width < wide, 0
        for start, stop, columns in blocks:
            n = stop - start
            pairs, tokens = batch * n * columns, batch * n * (casts or (batch > 1 and n < new))
            met = pairs if gathered else batch * columns * casts
            narrow = met * q.width // wide if gathered and casts else 0  # beside them for a moment
            mapped = batch * n * heads * dim if latent else 0
            rows = tokens * heads * dim + mapped * (not casts)
            logits = met * (dim + width) + narrow * dim + rows + pairs * 3 * heads
            most = max(most, q.width * (mapped + batch * n * heads * latent))
            scores = met * width + tokens * index * width + pairs * 7
            learned = pairs * 3 * index + max(pairs * index, met * width)
            most = max(most, wide * logits, wide * (scores + learned))
        return most

    def code(
        self,
        index_q: ast.expr,
        index_keys: ast.expr,
        index_weights: ast.expr,
        q: ast.expr,
        entries: ast.expr,
        lse: ast.expr,
        time: ast.expr,
        *rest: ast.expr,
    ) -> ast.expr:
        weight, picks = self._optional(rest)
        return expr(
            "step.add_loss(name, index_divergence, index_q, index_keys, index_weights, q, entries, lse, time,"
            " weight=w, scale=scale, latent_weight=latent_weight, nope=nope, picks=picks, every=every)",
            name=self.name,
            index_q=index_q,
            index_keys=index_keys,
            index_weights=index_weights,
            q=q,
            entries=entries,
            lse=lse,
            time=time,
            w=self.weight,
            scale=self.scale,
            latent_weight=weight,
            nope=self.nope,
            picks=picks,
            every=None if self.every == 1 else self.every,
        )
