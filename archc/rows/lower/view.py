"""Ops of `archc.ops.view` as row values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from archc.ops import view
from archc.rows import pointwise as pw
from archc.rows import rules as r
from archc.rows.lower.lowering import Leaf, Lowering, Term, Unfit, rule
from archc.rows.value import Row


@rule(view.Flatten)
def _flatten(low: Lowering, op: view.Flatten, x: Term) -> Term:
    return low.term(x.row, (*x.dims[:-2], x.dims[-2] * x.dims[-1]), headed=x.headed)


@rule(view.Unflatten)
def _unflatten(low: Lowering, op: view.Unflatten, x: Term) -> Term:
    return low.term(x.row, (*x.dims[:-1], *op.sizes), headed=x.headed)


@rule(view.UnflattenRows)
def _unflatten_rows(low: Lowering, op: view.UnflattenRows, x: Term) -> Term:
    return low.term(x.row, (op.n, x.dims[0] // op.n, *x.dims[1:]))


@rule(view.Unsqueeze)
def _unsqueeze(low: Lowering, op: view.Unsqueeze, x: Term) -> Term:
    at = len(x.dims) + 1 + op.dim
    if x.row.row and at == len(x.dims):
        raise Unfit("each channel of a row by itself")
    return low.term(x.row, (*x.dims[:at], 1, *x.dims[at:]), headed=x.headed)


@rule(view.Expand)
def _expand(low: Lowering, op: view.Expand, x: Term) -> Term:
    if low.heads:
        raise Unfit("copies of a row for each head")
    outer, last = low.letters(x)
    dims = (*x.dims[:-1], op.n, x.dims[-1])
    sizes = tuple(n for n in low.sizes(dims, row=x.row.row) if n != 1)
    low.small(sizes, row=x.row.row)
    if op.n == 1:
        return low.term(x.row, dims)
    return low.term(low.make(r.Spread(kept=outer + last, made=f"{outer}z{last}", sizes=sizes), x.row), dims)


@rule(view.Detach)
def _detach(low: Lowering, op: view.Detach, x: Term) -> Term:
    return low.like(low.make(pw.Fixed(), x.row), x)


def _counts(low: Lowering, x: Term, sizes: Sequence[int]) -> list[int]:
    """How many streams parts of the last dim are, if they are whole streams."""
    if x.row.row and any(n % low.width for n in sizes):
        raise Unfit(f"parts of {' and '.join(map(str, sizes))} channels of rows of {low.width}")
    return [n // low.width if x.row.row else n for n in sizes]


def _turned(x: Row, *, back: bool = False) -> Row:
    """x with its last stream axis first, or the other way."""
    letters = "abcdefgh"[: len(x.streams)]
    to = letters[1:] + letters[:1] if back else letters[-1:] + letters[:-1]
    return r.product(f"{letters}->{to}", x) if len(letters) > 1 else x


def _part(low: Lowering, x: Term, start: int, count: int) -> Row:
    """``count`` of the streams that the last dim is."""
    outer, last = low.letters(x)
    if not last:
        return x.row
    around = x.row.streams[: len(outer)]
    line = low.make(r.Take(start=start * math.prod(around), shape=(count, *around)), _turned(x.row))
    if count > 1:
        return _turned(line, back=True)
    return low.make(r.Take(start=0, shape=around), line)


@rule(view.Split)
def _split(low: Lowering, op: view.Split, x: Term) -> list[Term]:
    counts = _counts(low, x, op.sizes)
    starts = accumulate(counts, initial=0)
    return [
        low.term(_part(low, x, start, count), (*x.dims[:-1], size), headed=x.headed)
        for start, count, size in zip(starts, counts, op.sizes, strict=False)
    ]


@rule(view.Unbind)
def _unbind(low: Lowering, op: view.Unbind, x: Term) -> list[Term]:
    if x.row.row:
        raise Unfit("each channel of a row by itself")
    return [low.term(_part(low, x, i, 1), x.dims[:-1], headed=x.headed) for i in range(low.count(x))]


@rule(view.Cat)
def _cat(low: Lowering, op: view.Cat, *parts: Term) -> Term:
    first = parts[0]
    if len({(p.row.row, p.headed) for p in parts}) > 1:
        raise Unfit("rows beside numbers")
    sizes = [low.count(p) for p in parts]
    counts = _counts(low, first, sizes)
    around = tuple(n for n in low.sizes(low.rest(first), row=first.row.row)[:-1] if n != 1)
    dims = (*first.dims[:-1], sum(sizes))
    low.small((*around, sum(counts)), row=first.row.row)
    made: Row | float = 0.0
    for part, count, start in zip(parts, counts, accumulate(counts, initial=0), strict=False):
        line = _turned(part.row) if count > 1 else part.row
        whole = low.make(r.Pad(start=start * math.prod(around), shape=(sum(counts), *around)), line)
        made = r.add(made, whole)
    assert isinstance(made, Row)
    return low.term(_turned(made, back=True), dims, headed=first.headed)


@rule(view.Tokenwise, raw=(1,))
def _tokenwise(low: Lowering, op: view.Tokenwise, weights: Term, x: Leaf) -> Term:
    """What all tokens share meets what each has as a parameter does."""
    if low.heads:
        raise Unfit("a parameter for each token of several heads")
    return weights
