"""Attention over latents, of which keys and values are linear maps."""

from __future__ import annotations

import ast
from typing import ClassVar, NamedTuple

from archc.ops.attended import attended
from archc.ops.attention import attention_flops, visible_pairs
from archc.ops.base import Op, Type, Workload, expr, need, size
from archc.ops.schedules import schedule
from archc.ops.tape import Tape, Tensor


def crossover(*, latent: int, nope: int, values: int) -> int | None:
    """The most new tokens for which attention in latent space takes no more FLOPs, however long the cache; None if any.

    A cached token costs H * latent * (nope + values) multiplications to expand, once; its pair with a new token costs
    H * (2 * latent - nope - values) more in latent space.
    """
    more = 2 * latent - nope - values
    return latent * (nope + values) // more if more > 0 else None


class Stage(NamedTuple):
    """A kernel of latent attention: a product with a part of its weight, or (``weight`` 0) attention."""

    name: str
    flops: int
    read: int
    """Activations, in elements; entries apart."""
    written: int
    latents: float = 0.0
    """The share of the entries' channels that it reads, of every token."""
    weight: float = 0.0
    over_keys: bool = False
    """Whether it is a product of every token, new or not."""


class OverLatents(Op, abstract=True):
    """Base of attentions whose keys and values are linear maps of one latent per token: q [B, S, H, nope + R], entries
    [B, T, C + R], weight [H * (nope + V), C], time -> [B, S, H, V].

    Entries are a latent and R rotated channels that the keys of all heads share; the weight maps a latent to ``nope``
    key channels and V value channels of each head.
    """

    fused = "attention"
    trained_as: ClassVar[str]
    """The form of `forms` that training runs."""
    nope: int
    scale: float

    def infer(self, q: Type, entries: Type, weight: Type, time: Type) -> Type:
        heads, shared = q.fixed(2), q.last - self.nope
        need(entries.last == weight.last + shared, f"entries {entries} of {weight.last} + {shared} channels")
        rows = weight.fixed(0)
        need(rows % heads == 0, f"{heads} heads do not divide {rows} rows")
        need(rows // heads > self.nope, f"{rows // heads} channels of a head leave none for values after {self.nope}")
        return Type((*q.shape[:-1], rows // heads - self.nope), q.dtype)

    def forms(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> dict[str, tuple[Stage, ...]]:
        """What kernels do, by the form that they run in: keys and values of all tokens expanded and then met, or
        latents met by queries that were mapped into their space.
        """
        q, entries, weight = ins[:3]
        heads, latent, values, keys = q.fixed(2), weight.last, outs[0].last, size(entries.shape[1], w)
        rows, shared, new, pairs = weight.fixed(0), q.last - self.nope, w.batch * w.new, visible_pairs(w, None)
        picked, share, read = self.met(w, ins)
        both, result = w.batch * keys * rows, new * heads * values
        wide, within, split = new * heads * q.last, new * heads * latent, self.nope * heads / rows
        return {
            "expanded": (
                Stage("keys and values", 2 * both * latent, 0, both, latent / entries.last, 1.0, over_keys=True),
                Stage(
                    "attend", 2 * heads * pairs * (q.last + values), wide + both + read, result, shared / entries.last
                ),
            ),
            "in latent space": (
                Stage("map queries", 2 * within * self.nope, new * heads * self.nope, within, weight=split),
                Stage(
                    "attend",
                    2 * heads * picked * (entries.last + latent),
                    within + new * heads * shared + read,
                    within,
                    share,
                ),
                Stage("map values", 2 * within * values, within, result, weight=1 - split),
            ),
        }

    def met(self, w: Workload, ins: tuple[Type, ...]) -> tuple[int, float, int]:
        """Query-token pairs that meet in latent space, the share of the entries that is read for that, and what else
        is read, in elements of activations.
        """
        return visible_pairs(w, None), 1.0, 0


class LatentAttend(OverLatents):
    """softmax(q k^T * scale) v over the tokens so far, where k and v are linear maps of one latent per token:
    q [B, S, H, nope + R], entries [B, T, C + R], weight [H * (nope + V), C] -> [B, S, H, V].

    Entries are a latent and R rotated channels that the keys of all heads share; the weight maps a latent to ``nope``
    key channels and V value channels of each head. Runs expanded, or in latent space for up to ``absorb`` new tokens
    (None: any number) after cached ones.
    """

    needs = {"latent_attend": "kernels.latent_attend"}
    trained_as = "expanded"
    absorb: int | None = None

    def flops(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[int, int, int]:
        q, entries, weight = ins[:3]
        heads, latent, values, keys = q.fixed(2), weight.last, outs[0].last, size(entries.shape[1], w)
        expand = 2 * w.batch * weight.fixed(0) * latent  # of one token in each row
        useful = expand * w.new + 2 * heads * visible_pairs(w, None) * (q.last + values)
        blocks = schedule("blocks")
        if blocks.absorbs(past=w.past, new=w.new, most=self.absorb):
            pairs = w.batch * blocks.scored_pairs(batch=w.batch, heads=heads, new=w.new, keys=keys, materialise=True)
            executed = expand * w.new + 2 * heads * pairs * (entries.last + latent)
            return executed, useful, 2 * executed
        step = blocks.expanded_heads(batch=w.batch, heads=heads, keys=keys, width=max(q.last, self.nope + values))
        executed, backward = expand * keys, 2 * expand * keys
        whole, rest = divmod(heads, step)
        for some, times in ((step, whole), (rest, 1)):
            if some:
                run = attention_flops(w, keys=keys, heads=some, groups=some, width=q.last, value_width=values)
                executed, backward = executed + times * run[0], backward + times * run[1]
        return executed, useful, backward

    def run(self, t: Tape, q: Tensor, entries: Tensor, weight: Tensor, time: None) -> Tensor:
        """Expanded: without a cache there is nothing to absorb."""
        (batch, new, heads, _), latent = q.shape, weight.shape[1]
        rows = weight.shape[0] // heads
        wide = max(q.shape[-1], rows)
        step = schedule("blocks").expanded_heads(batch=batch, heads=heads, keys=new, width=wide)
        outs = []
        for first in range(0, heads, step):
            some = min(step, heads - first)
            kv = t.linear(t.narrow(entries, -1, latent), t.narrow(weight, 0, some * rows))
            k, v = t.split(t.reshape(kv, (batch, new, some, rows)), (self.nope, rows - self.nope))
            turned = t.narrow(t.unsqueeze(entries, -2), -1, entries.shape[-1] - latent)
            k = t.cat([k, t.expand(turned, (batch, new, some, turned.shape[-1]))], -1)
            outs.append(attended(t, t.narrow(q, 2, some), k, v))
        return outs[0] if len(outs) == 1 else t.cat(outs, 2)

    def code(self, q: ast.expr, entries: ast.expr, weight: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "latent_attend(q, entries, weight, time, nope=nope, scale=scale, absorb=absorb)",
            q=q,
            entries=entries,
            weight=weight,
            time=time,
            nope=self.nope,
            scale=self.scale,
            absorb=self.absorb,
        )
