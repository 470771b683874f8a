"""Ops of `archc.ops.view` as row values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from archc.ops import view
from archc.rows import pointwise as pw
from archc.rows import rules as r
from archc.rows.lower.lowering import Leaf, Lowering, Term, Unfit, rule


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


def _starts(low: Lowering, x: Term, sizes: Sequence[int]) -> list[int]:
    """Where parts of the last dim start among the streams, if they are whole streams."""
    outer, _ = low.letters(x)
    if outer:
        raise Unfit("parts of the last dim, for each of several streams")
    if x.row.row and any(n % low.width for n in sizes):
        raise Unfit(f"parts of {' and '.join(map(str, sizes))} channels of rows of {low.width}")
    counts = low.sizes(tuple(sizes), row=False)
    unit = low.width if x.row.row else 1
    return [n // unit for n in accumulate(counts, initial=0)]


@rule(view.Split)
def _split(low: Lowering, op: view.Split, x: Term) -> list[Term]:
    starts = _starts(low, x, op.sizes)
    made = []
    for start, end, size in zip(starts, starts[1:], op.sizes, strict=False):
        shape = (end - start,) if end - start != 1 else ()
        made.append(low.term(low.make(r.Take(start=start, shape=shape), x.row), (*x.dims[:-1], size), headed=x.headed))
    return made


@rule(view.Unbind)
def _unbind(low: Lowering, op: view.Unbind, x: Term) -> list[Term]:
    if x.row.row:
        raise Unfit("each channel of a row by itself")
    starts = _starts(low, x, (1,) * low.count(x))
    return [
        low.term(low.make(r.Take(start=start, shape=()), x.row), x.dims[:-1], headed=x.headed) for start in starts[:-1]
    ]


@rule(view.Cat)
def _cat(low: Lowering, op: view.Cat, *parts: Term) -> Term:
    first = parts[0]
    if len({(p.row.row, p.headed) for p in parts}) > 1:
        raise Unfit("rows beside numbers")
    sizes = [low.count(p) for p in parts]
    starts = [_starts(low, p, (n,)) for p, n in zip(parts, sizes, strict=True)]
    total = sum(s[-1] for s in starts)
    at = accumulate((s[-1] for s in starts), initial=0)
    made = [low.make(r.Pad(start=start, shape=(total,)), p.row) for p, start in zip(parts, at, strict=False)]
    row = made[0]
    for more in made[1:]:
        row = r.add(row, more)
    return low.term(row, (*first.dims[:-1], sum(sizes)), headed=first.headed)


@rule(view.Tokenwise, raw=(1,))
def _tokenwise(low: Lowering, op: view.Tokenwise, weights: Term, x: Leaf) -> Term:
    """What all tokens share meets what each has as a parameter does."""
    if low.heads:
        raise Unfit("a parameter for each token of several heads")
    return weights
