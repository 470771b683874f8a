"""Ops of `archc.ops.row` as row values."""

from __future__ import annotations

import math

from archc.ops import row
from archc.rows import pointwise as pw
from archc.rows import rules as r
from archc.rows.lower.lowering import Leaf, Lowering, Term, Unfit, pointwise, rule
from archc.rows.rotate import Rotate
from archc.rows.softmax import Softmax
from archc.rows.value import Row

pointwise(row.Sigmoid, lambda op: r.Sigmoid())
pointwise(row.Tanh, lambda op: pw.Tanh())
pointwise(row.Relu, lambda op: pw.Relu())
pointwise(row.Clamp, lambda op: r.Clip(low=op.low, high=op.high))


@rule(row.Binary)
def _binary(low: Lowering, op: row.Binary, a: Term, b: Term | None = None) -> Term:
    if b is None:
        assert op.number is not None
        number = {"-": -op.number, "/": 1 / op.number if op.sign == "/" else 0.0}.get(op.sign, op.number)
        return low.like(r.add(a.row, number) if op.sign in "+-" else r.mul(a.row, number), a)
    if op.sign in "+-":
        return low.plus(a, b if op.sign == "+" else low.like(r.mul(b.row, -1.0), b))
    return low.times(a, b if op.sign == "*" else low.like(r.recip(b.row), b))


@rule(row.Cast, raw=(1,))
def _cast(low: Lowering, op: row.Cast, x: Term, like: Leaf | None = None) -> Term:
    """Kernels compute in float32 whatever the dtype: only what is stored is rounded (`lower`)."""
    return x


@rule(row.RmsNorm)
def _rms_norm(low: Lowering, op: row.RmsNorm, x: Term, weight: Term | None = None) -> Term:
    normed = low.like(low.called("normed", low.over_last(x, low.inverse_rms(x, op.eps))), x)
    return normed if weight is None else low.times(normed, weight)


@rule(row.InverseRms)
def _inverse_rms(low: Lowering, op: row.InverseRms, x: Term) -> Term:
    return low.term(low.inverse_rms(x, op.eps), (*x.dims[:-1], 1), headed=x.headed)


@rule(row.LayerNorm)
def _layer_norm(low: Lowering, op: row.LayerNorm, x: Term, *params: Term) -> Term:
    mean = low.called("minus_mean", r.mul(low.total(x), -1 / low.count(x)))
    centred = low.like(low.called("centred", r.add(x.row, low.again(x, mean))), x)
    # A square of its own: sums of products of x and the mean would cancel where the mean is large
    squares = low.called("sum_of_squares", low.total(low.like(low.make(pw.Square(), centred.row), x)))
    inverse = low.called("inverse_std", low.make(r.Rsqrt(), r.add(r.mul(squares, 1 / low.count(x)), op.eps)))
    made = low.like(low.called("normed", low.over_last(centred, inverse)), x)
    for join, param in zip((low.times, low.plus), params, strict=False):
        made = join(made, param)
    return made


@rule(row.Swiglu)
def _swiglu(low: Lowering, op: row.Swiglu, gate: Term, up: Term) -> Term:
    if op.limit is not None:
        gate = low.like(low.make(r.Clip(low=-math.inf, high=op.limit), gate.row), gate)
        up = low.like(low.make(r.Clip(low=-op.limit, high=op.limit), up.row), up)
    opened = low.like(low.called("opened", r.mul(gate.row, low.make(r.Sigmoid(), r.mul(gate.row, op.alpha)))), gate)
    return low.times(opened, low.like(r.add(up.row, op.shift), up))


@rule(row.Silu)
def _silu(low: Lowering, op: row.Silu, x: Term) -> Term:
    return low.like(r.mul(x.row, low.make(r.Sigmoid(), x.row)), x)


@rule(row.Gelu)
def _gelu(low: Lowering, op: row.Gelu, x: Term) -> Term:
    if op.tanh:
        inside = r.mul(x.row, r.add(r.mul(r.mul(x.row, x.row), 0.044715), 1.0))
        below = low.make(r.Sigmoid(), r.mul(inside, 2 * math.sqrt(2 / math.pi)))  # (1 + tanh(z)) / 2 is sigmoid(2 z)
        return low.like(r.mul(x.row, below), x)
    inside = low.make(pw.Erf(), r.mul(x.row, math.sqrt(0.5)))
    return low.like(r.mul(r.mul(x.row, 0.5), r.add(inside, 1.0)), x)


@rule(row.Softmax)
def _softmax(low: Lowering, op: row.Softmax, x: Term) -> Term:
    return low.like(softmax(low, x), x)


def softmax(low: Lowering, x: Term) -> Row:
    """exp(x) / sum of exp(x) over the last dim"""
    most = low.called("minus_most", r.mul(low.called("most", low.largest(x)), -1.0))
    e = low.called("power", low.make(r.Exp(), r.add(x.row, low.again(x, most))))
    total = low.called("sum_of_powers", low.total(x._replace(row=e)))
    inverse = low.called("inverse_sum", r.recip(total))
    made = low.called("softmax", low.over_last(x._replace(row=e), inverse))
    alone = not x.row.streams if x.row.row else low.letters(x)[1] != ""
    return low.called("softmax", low.make(Softmax(), x.row, made)) if alone else made


@rule(row.Rotate, raw=(1,))
def _rotate(low: Lowering, op: row.Rotate, x: Term, angles: Leaf) -> Term:
    if not x.row.row:
        raise Unfit("turns numbers that are no row")
    turned = 2 * angles.value.type.fixed(-2)
    if turned > low.width:
        raise Unfit(f"turns {turned} channels, more than a row has")
    turns = low.angles(angles)
    outer, last = low.letters(x)
    make = Rotate(turned=turned, pairs=op.pairs, end=op.end, inverse=op.inverse)
    if not last:
        return low.like(low.make(make, x.row, turns), x)
    if outer:
        raise Unfit("turns heads that are several rows each")
    count = x.row.streams[0]
    at = 0 if op.end == "first" else count - 1
    one = low.make(make, low.make(r.Take(start=at, shape=()), x.row), turns)
    rest = low.make(r.Take(start=1 - min(at, 1), shape=(count - 1,) if count > 2 else ()), x.row)
    parts = ((one, at), (rest, 1 - min(at, 1)))
    made = r.add(*(low.make(r.Pad(start=start, shape=(count,)), part) for part, start in parts))
    return low.like(made, x)
