"""Ops of `archc.ops.streams` as row values."""

from __future__ import annotations

import math

from archc.ops import streams
from archc.rows import pointwise as pw
from archc.rows import rules as r
from archc.rows.lower.lowering import MOST_NUMBERS, Leaf, Lowering, Term, Unfit, rule
from archc.rows.lower.row import softmax
from archc.rows.value import Row


def _apart(low: Lowering, x: Term, *, inner: int) -> int:
    """How many streams the dim before the last ``inner`` has; no dims stand before it."""
    rest = low.rest(x)
    if len(rest) != inner + 1:
        raise Unfit("streams of each of several heads")
    return rest[0]


def _rows(low: Lowering, x: Term) -> Row:
    """Streams of rows: as many streams as the dim before the last says."""
    if not x.row.row or low.letters(x)[1]:
        raise Unfit("streams of what is no row")
    return x.row


@rule(streams.Collapse)
def _collapse(low: Lowering, op: streams.Collapse, x: Term, weights: Term) -> Term:
    if len(low.rest(x)) < 2:
        raise Unfit("streams of each of several heads")
    outer, last = low.letters(x)
    over = low.rest(x)[-2] != 1
    kept = outer[:-1] if over else outer
    made = r.product(f"{outer}{last},{outer}->{kept}{last}", x.row, weights.row)
    return low.term(made, (*x.dims[:-2], x.dims[-1]), headed=x.headed)


@rule(streams.Mix)
def _mix(low: Lowering, op: streams.Mix, x: Term, comb: Term, y: Term, post: Term) -> Term:
    j, k = ("j", "k") if _apart(low, x, inner=1) > 1 else ("", "")
    written = low.called("written", r.product(f"{k},->{k}", post.row, _rows(low, y)))
    mixed = low.called("mixed", r.product(f"{j}{k},{j}->{k}", comb.row, _rows(low, x)))
    return low.like(r.add(written, mixed), x)


@rule(streams.Only, raw=(0,))
def _only(low: Lowering, op: streams.Only, x: Leaf) -> Term:
    dims = low.dims(x.value)[:-1]
    if low.heads or len(dims) != 1:
        raise Unfit("streams of each of several heads")
    one = r.const(low.program, 1.0)
    return low.term(low.make(r.Pad(start=op.stream, shape=dims), one) if dims[0] > 1 else one, dims)


@rule(streams.Filled, raw=(0,))
def _filled(low: Lowering, op: streams.Filled, x: Leaf) -> Term:
    if low.heads or math.prod(op.dims) > MOST_NUMBERS:
        raise Unfit(f"{list(op.dims)} numbers for each token that are all the same")
    number, sizes = r.const(low.program, op.number), tuple(n for n in op.dims if n != 1)
    made = low.make(r.Spread(kept="", made="abcdefgh"[: len(sizes)], sizes=sizes), number) if sizes else number
    return low.term(made, op.dims)


@rule(streams.Normalize)
def _normalize(low: Lowering, op: streams.Normalize, x: Term) -> Term:
    inverse = low.called("inverse_sum", r.recip(r.add(low.called("row_sum", low.total(x)), op.eps)))
    return low.like(low.over_last(x, inverse), x)


@rule(streams.Sinkhorn)
def _sinkhorn(low: Lowering, op: streams.Sinkhorn, x: Term) -> Term:
    n = _apart(low, x, inner=1)
    if x.row.row:
        raise Unfit("doubly stochastic matrices of rows")
    j, k = ("j", "k") if n > 1 else ("", "")
    make = low.make

    def divided(m: Row, by: str) -> Row:
        which = "row" if by == j else "column"
        sums = low.called(f"{which}_sums", r.product(f"{j}{k}->{by}", m))
        inverse = low.called(f"inverse_{which}_sums", r.recip(r.add(sums, op.eps)))
        return low.called(f"by_{which}s", r.product(f"{j}{k},{by}->{j}{k}", m, inverse))

    def less(m: Row, transposed: bool) -> Row:
        """m less the logarithm of the sum of its exponentials over rows, or over columns."""
        by, which = (k, "column") if transposed else (j, "row")
        most = m
        if n > 1:
            most = low.called(f"{which}_most", make(r.StreamMax(), r.product("jk->kj", m) if transposed else m))
        most = low.called(f"minus_{which}_most", r.mul(most, -1.0))
        below = low.called(f"below_{which}_most", r.add(m, _over(low, most, by, n)))
        power = low.called(f"{which}_power", make(r.Exp(), below))
        total = low.called(f"{which}_sums", r.product(f"{j}{k}->{by}", power))
        logarithm = low.called(f"minus_log_{which}_sums", r.mul(make(r.Log(), total), -1.0))
        return low.called(f"less_{which}_sums", r.add(below, _over(low, logarithm, by, n)))

    if op.eps:
        m = low.called("above_zero", r.add(softmax(low, x), op.eps))
        made = r.repeat(op.iters - 1, lambda m: divided(divided(m, j), k), divided(m, k), "sinkhorn")
    else:
        made = make(r.Exp(), r.repeat(op.iters, lambda m: less(less(m, False), True), x.row, "sinkhorn"))
    return low.like(made, x)


def _over(low: Lowering, x: Row, kept: str, n: int) -> Row:
    return low.make(r.Spread(kept=kept, made="jk", sizes=(n, n)), x) if n > 1 else x


@rule(streams.Sum)
def _sum(low: Lowering, op: streams.Sum, x: Term) -> Term:
    at = len(x.dims) + op.dim
    dims = (*x.dims[:at], *x.dims[at + 1 :])
    if x.headed and at < len(low.heads):
        raise Unfit("a sum over heads")
    rest = low.rest(x)
    sizes = low.sizes(rest, row=x.row.row)
    names = ["" if n == 1 else "abcdefgh"[i] for i, n in enumerate(sizes)]
    gone = names[at - (len(low.heads) if x.headed else 0)]
    if not gone:
        return low.term(x.row, dims, headed=x.headed)
    letters = "".join(names)
    return low.term(r.product(f"{letters}->{letters.replace(gone, '')}", x.row), dims, headed=x.headed)


@rule(streams.SignedSqrt)
def _signed_sqrt(low: Lowering, op: streams.SignedSqrt, x: Term) -> Term:
    sign = low.called("sign", low.make(pw.Sign(), x.row))
    size = low.called("size", r.mul(x.row, sign))
    root = low.called("root", low.make(pw.Sqrt(), low.make(r.Clip(low=op.floor, high=math.inf), size)))
    return low.like(r.mul(sign, root), x)
