"""Hashed n-grams, the large tables they index, and short convolutions (Engram, arXiv:2601.07372)."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterator
from typing import Literal

from archc.ops._random import integers
from archc.ops.base import B, Op, ParamSpec, S, Type, Workload, expr, need, numel
from archc.ops.tape import Tape, Tensor


# --- constants of the hash -----------------------------------------------------------------------
def hash_multipliers(layer: int, ids: int, longest: int, seed: int = 0) -> tuple[int, ...]:
    """The odd factors of a layer's hash, one per token of the longest n-gram, newest first.

    ``layer`` counts from zero and seeds the generator; ``ids``, the number of token ids, bounds the factors, so that a
    product with a token stays below 2^63. The recipe is that of the public implementation, down to its generator.
    """
    bound = (2**63 - 1) // ids // 2
    return tuple(2 * number + 1 for number in integers(seed + 10007 * layer, bound, longest))


def hash_primes(start: int) -> Iterator[int]:
    """The primes from ``start`` on, of which tables take their rows: in the order layer, order, head, none twice."""
    return (n for n in itertools.count(start) if _is_prime(n))


def _is_prime(n: int) -> bool:
    """Whether n is prime: Miller and Rabin's test with bases that decide every n below 3.3e24."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if n < 2 or any(n % p == 0 for p in bases):
        return n in bases
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


# --- ops -----------------------------------------------------------------------------------------
class NgramHash(Op):
    """Rows of a table that each token reads, by the n-grams that end with it [B, S, orders * heads].

    Reads a `Recall` of token ids [B, R] that reaches back over the longest of ``orders``; ``primes`` are the rows
    of the tables of all heads, order outermost; tokens before a sequence read as ``pad``.
    """

    needs = {"ngram_hash": "kernels.ngram_hash"}
    varies = ("multipliers", "primes")
    orders: tuple[int, ...]
    multipliers: tuple[int, ...]
    primes: tuple[int, ...]
    pad: int

    def infer(self, recent: Type, time: Type) -> Type:
        need(len(recent.shape) == 2 and recent.dtype == "int", f"hashes token ids, got {recent}")
        need(len(self.primes) % len(self.orders) == 0, f"{len(self.primes)} tables for {len(self.orders)} orders")
        need(
            len(self.multipliers) >= max(self.orders),
            f"{len(self.multipliers)} multipliers for n-grams of {max(self.orders)}",
        )
        return Type((B, S, len(self.primes)), "int")

    def run(self, t: Tape, recent: Tensor, time: None) -> Tensor:
        return t.new((*recent.shape, len(self.primes)), 8)

    def code(self, recent: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "ngram_hash(recent, time, orders=orders, multipliers=multipliers, primes=primes, pad=pad)",
            recent=recent,
            time=time,
            orders=self.orders,
            multipliers=self.multipliers,
            primes=self.primes,
            pad=self.pad,
        )


class TableLookup(Op):
    """Rows of a large learned table [rows, dim] named by ids: [*ids, dim].

    ``placement`` is where the table lies: in the memory of the device or of its host, or on disk.
    """

    needs = {"LargeTable": "runtime.tables", "F": "torch.nn.functional"}
    varies = ("rows",)
    rows: int
    dim: int
    placement: Literal["device", "host", "disk"] = "device"

    def params(self, name: str | None, ids: Type) -> tuple[ParamSpec, ...]:
        read = math.prod(ids.fixed(axis) for axis in range(2, len(ids.shape)))
        share, shape = (min(read, self.rows), self.rows), (self.rows, self.dim)
        weight = ParamSpec(name=f"{name}.weight", shape=shape, role="table", share=share, placement=self.placement)
        return (weight,)

    def infer(self, ids: Type, weight: Type) -> Type:
        need(ids.dtype == "int", f"looks up ids, got {ids}")
        return Type((*ids.shape, self.dim))

    def shares(self, w: Workload, ins: tuple[Type, ...], outs: tuple[Type, ...]) -> tuple[float, ...]:
        """Only the rows that are named are read."""
        return 1.0, min(1.0, numel(outs[0].shape, w) / numel(ins[1].shape, w))

    def run(self, t: Tape, ids: Tensor, weight: Tensor) -> Tensor:
        return t.embedding(ids, weight)

    def code(self, ids: ast.expr, weight: ast.expr) -> ast.expr:
        return expr("F.embedding(ids, weight)", ids=ids, weight=weight)

    def module(self, ids: Type, weight: Type) -> ast.expr:
        placement = None if self.placement == "device" else self.placement
        return expr("LargeTable(rows, dim, placement=placement)", rows=self.rows, dim=self.dim, placement=placement)


class ShortConv(Op):
    """A causal convolution of ``taps`` over each channel alone, ``dilation`` tokens apart: a `Recall` [B, R, *C] ->
    [B, S, *C].
    """

    needs = {"short_conv": "kernels.short_conv"}
    taps: int
    dilation: int = 1

    def params(self, name: str | None, recent: Type, time: Type) -> tuple[ParamSpec, ...]:
        need(name is not None, "a convolution needs a name")
        channels = tuple(recent.fixed(axis) for axis in range(2, len(recent.shape)))
        return (ParamSpec(name=name or "", shape=(*channels, self.taps), role="scale", init="zeros"),)

    def infer(self, recent: Type, time: Type, weight: Type) -> Type:
        return Type((B, S, *recent.shape[2:]), recent.dtype)

    def run(self, t: Tape, recent: Tensor, time: None, weight: Tensor) -> Tensor:
        x, taps = t.upcast(recent), t.unbind(t.upcast(weight))
        out = None
        for i, tap in enumerate(taps):
            back = min((self.taps - 1 - i) * self.dilation, x.shape[1])
            held = t.narrow(x, 1, x.shape[1] - back)
            inside = t.narrow(t.new((*x.shape[:2], *[1] * (len(x.shape) - 2)), 1), 1, held.shape[1])
            shifted = t.cat([t.new((x.shape[0], back, *x.shape[2:]), x.width), t.masked(held, inside)], 1)
            term = t.mul(shifted, tap)
            out = term if out is None else t.add(out, term)
        assert out is not None
        return t.to(out, recent.width)

    def code(self, recent: ast.expr, time: ast.expr, weight: ast.expr) -> ast.expr:
        return expr(
            "short_conv(recent, weight, time, dilation=dilation)",
            recent=recent,
            weight=weight,
            time=time,
            dilation=None if self.dilation == 1 else self.dilation,
        )
