"""State over time, and what is computed once per forward from the tokens' positions."""

from __future__ import annotations

import ast
from math import prod
from typing import Any, Literal

from archc.ops.base import BYTES, B, Dim, DType, Op, S, Size, T, Type, Workload, expr, need, size
from archc.ops.packing import Packing
from archc.ops.tape import Tape, Tensor
from archc.record import dataclass


# --- stores --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The last ``keep`` tokens before the new ones; slot p of a row lives at p modulo the size.

    Caches of the layout of its ``packing`` hold that instead of numbers of ``dtype``.
    """

    keep: int
    shape: tuple[int, ...]
    dtype: DType = "act"
    packing: Packing | None = None

    def rows(self, max_tokens: int, max_rewind: int) -> int:
        """Rows that a cache allocates: rewinding by k needs k older tokens."""
        return min(self.keep + max_rewind, max_tokens)

    def code(self) -> ast.expr:
        """Its declaration in a package."""
        return expr(
            "Ring(keep=keep, shape=shape, dtype=dtype, packing=packing)",
            keep=self.keep,
            shape=self.shape,
            **_held(self),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One entry per ``every`` tokens, entry i in row i; ``dtype`` and ``packing`` as of a `Ring`.

    Of a table with a packing, `Append` gives what only ops that know packed entries can read.
    """

    every: int
    shape: tuple[int, ...]
    dtype: DType = "act"
    packing: Packing | None = None

    def rows(self, max_tokens: int, max_rewind: int) -> int:
        """Rows that a cache allocates."""
        return max_tokens // self.every

    def code(self) -> ast.expr:
        """Its declaration in a package."""
        return expr(
            "Table(every=every, shape=shape, dtype=dtype, packing=packing)",
            every=self.every,
            shape=self.shape,
            **_held(self),
        )


Store = Ring | Table


def _held(store: Store) -> dict[str, Any]:
    """How a store's declaration prints what it holds."""
    return {
        "dtype": None if store.dtype == "act" else store.dtype,
        "packing": None if store.packing is None else store.packing.code(),
    }


def closing(every: int) -> Size:
    """How many groups of ``every`` tokens close in a call."""
    if every == 1:
        return S
    return Dim(f"S//{every}", lambda w: (w.past + w.new) // every - w.past // every)


# --- once per forward ----------------------------------------------------------------------------
class TokenIds(Op):
    """The ids of the new tokens [B, S]."""

    def infer(self) -> Type:
        return Type((B, S), "int")

    def run(self, t: Tape) -> Tensor:
        return t.given((t.w.batch, t.w.new), 8)

    def code(self) -> ast.expr:
        return ast.Name(id="tokens", ctx=ast.Load())


class TimeOf(Op):
    """Where the tokens of this call stand (the runtime's `Time`)."""

    def infer(self) -> Type:
        return Type((), "none")

    def code(self) -> ast.expr:
        return ast.Name(id="time", ctx=ast.Load())


class RopeAngles(Op):
    """cos and sin at token positions, or (every > 1) at the first token of each closing group, or ``back`` tokens
    before it: [B, S, dim / 2, 2].
    """

    needs = {"rope_angles": "kernels.rope_angles", "group_positions": "kernels.groups"}
    dim: int
    theta: float
    scaling: Literal["linear", "llama3", "yarn"] | None = None
    factor: float = 1.0
    original: int = 0
    low: float | None = None
    high: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool = True
    magnitude: float = 1.0
    every: int = 1
    back: int = 0

    def infer(self, time: Type) -> Type:
        need(self.dim % 2 == 0, f"rotates {self.dim} channels, which do not form pairs")
        return Type((B, closing(self.every), self.dim // 2, 2), "fp32")

    def run(self, t: Tape, time: None) -> Tensor:
        count = size(closing(self.every), t.w)
        return t.new((t.w.batch, count, self.dim // 2, 2), 4)

    def code(self, time: ast.expr) -> ast.expr:
        where = (
            expr("time.positions", time=time)
            if self.every == 1 and not self.back
            else expr("group_positions(time, every=m, back=back)", time=time, m=self.every, back=self.back or None)
        )
        return expr(
            "rope_angles(where, dim=dim, theta=theta, scaling=scaling, factor=factor, original=original, low=low,"
            " high=high, beta_fast=beta_fast, beta_slow=beta_slow, truncate=truncate, magnitude=magnitude)",
            where=where,
            dim=self.dim,
            theta=self.theta,
            scaling=self.scaling,
            factor=None if self.factor == 1 else self.factor,
            original=self.original or None,
            low=self.low,
            high=self.high,
            beta_fast=self.beta_fast,
            beta_slow=self.beta_slow,
            truncate=None if self.truncate else ast.Constant(value=False),
            magnitude=None if self.magnitude == 1 else self.magnitude,
        )


# --- reading and writing state -------------------------------------------------------------------
def kept(keep: int) -> Size:
    """Rows of a `Recall`: the kept tokens (with a cache) and the new ones."""
    return Dim(f"{keep}+S", lambda w: w.new + (keep if w.cached else 0)) if keep else S


class Recall(Op):
    """The kept past tokens in time order, then the new ones [B, keep + S, ...]; the ring then keeps the newest."""

    needs = {"recall": "kernels.state"}
    keep: int

    def infer(self, x: Type, state: Type, time: Type) -> Type:
        return Type((B, kept(self.keep), *x.shape[2:]), x.dtype)

    def run(self, t: Tape, x: Tensor, state: None, time: None) -> Tensor:
        return x  # without a cache

    def code(self, x: ast.expr, state: ast.expr, time: ast.expr) -> ast.expr:
        return expr("recall(x, state, time)", x=x, state=state, time=time)


class Append(Op):
    """Every entry so far, the new ones included [B, T // every, ...]."""

    needs = {"append": "kernels.state"}
    every: int = 1

    def infer(self, x: Type, state: Type, time: Type) -> Type:
        need(x.shape[1] == closing(self.every), f"appends {x}, one entry per {self.every} tokens")
        return Type((B, T // self.every, *x.shape[2:]), x.dtype)

    def run(self, t: Tape, x: Tensor, state: None, time: None) -> Tensor:
        return x  # without a cache

    def code(self, x: ast.expr, state: ast.expr, time: ast.expr) -> ast.expr:
        return expr(
            "append(x, state, time, every=every)",
            x=x,
            state=state,
            time=time,
            every=None if self.every == 1 else self.every,
        )


def row_parts(store: Store, *, element: int, layout: str | None = None) -> dict[str, int]:
    """Bytes of one token or entry by what they hold: one item, but where caches of this layout pack.

    ``element`` is the size of an activation that is not packed.
    """
    *shape, channels = store.shape or (1,)
    if store.packing is not None and store.packing.layout == layout:
        return {what: n * prod(shape) for what, n in store.packing.parts(channels).items()}
    return {"": prod(store.shape) * (element if store.dtype == "act" else BYTES[store.dtype])}


__all__ = [
    "Append",
    "Recall",
    "Ring",
    "RopeAngles",
    "Store",
    "Table",
    "TimeOf",
    "TokenIds",
    "Workload",
    "closing",
    "kept",
    "row_parts",
]
