"""Row programs of chains of the graph's ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from archc.graph import Node, Value
from archc.ops import Op, Type, matrix, row, streams, view
from archc.rows import rules as r
from archc.rows.rotate import Rotate
from archc.rows.value import Program, Row

MOST_STREAMS = 64
"""Values of more numbers than this are rows: printers unroll streams."""


class Unfit(Exception):
    """An op cannot be part of a row program, or not of one with these rows."""


class Term(NamedTuple):
    """A value of the graph in a program: its row, and its dims after those of tokens. Where a row is there, it is the
    last of them, or (folded) the streams and it together are.
    """

    row: Row
    dims: tuple[int, ...]

    @property
    def folded(self) -> bool:
        """Whether streams and row are one dim of the graph's value."""
        return self.row.row and len(self.dims) != len(self.row.streams) + 1


class Lowered(NamedTuple):
    """A program with the graph's values that it takes and gives, by name."""

    width: int
    takes: dict[str, tuple[Value, Row]]
    gives: dict[str, tuple[Value, Row]]


class Lowering:
    """Makes row programs whose tokens are the first ``lead`` dims of values, and whose rows are ``width`` wide."""

    def __init__(self, lead: int, width: int) -> None:
        self.program, self.lead, self.width = Program(), lead, width

    def make(self, rule: Any, *args: Row) -> Row:
        """A value."""
        return self.program.make(rule, *args)

    def dims(self, type: Type, *, param: bool = False) -> tuple[int, ...]:
        """Dims after those of tokens."""
        rest = type.shape if param else type.shape[self.lead :]
        if not all(isinstance(n, int) for n in rest):
            raise Unfit(f"{type} depends on the workload beyond its tokens")
        return tuple(n for n in rest if isinstance(n, int))

    def leaf(self, name: str, value: Value) -> Term:
        """A value that comes from memory."""
        param = value.param is not None
        shared = 1
        if param:
            dims = self.dims(value.type, param=True)
        elif len(value.shape) >= self.lead and all(not isinstance(n, int) for n in value.shape[:2]):
            dims = self.dims(value.type)
        else:
            raise Unfit(f"{value.type} has no tokens")
        wide = bool(dims) and dims[-1] == self.width
        if not wide and math.prod(dims) > MOST_STREAMS:
            raise Unfit(f"{value.type} is neither a row of {self.width} nor few numbers")
        some = dims[:-1] if wide else tuple(n for n in dims if n != 1) if math.prod(dims) == 1 else dims
        rule = (
            r.Param(name=name, streams=some, row=wide)
            if param
            else r.Input(name=name, streams=some, row=wide, shared=shared)
        )
        return Term(self.make(rule), dims)

    # --- what ops are made of ----------------------------------------------------------------------
    def total(self, x: Term) -> tuple[Row, int]:
        """The sum over the last dim, and how many there are in it."""
        value, count = x.row, x.dims[-1]
        if value.row:
            value = self.make(r.RowSum(), value)
            if not x.folded:
                return value, count
        letters = "abcd"[: len(value.streams)]
        kept = "" if x.folded else letters[:-1]
        if not value.streams:
            return value, count
        return r.product(f"{letters}->{kept}", value), count

    def over_last(self, x: Term, number: Row) -> Row:
        """x times what it has one of for its last dim."""
        if x.row.row:
            outer = () if x.folded else x.row.streams
            if number.streams == outer == x.row.streams or not number.streams:
                return r.mul(x.row, number)
            raise Unfit("factors of folded streams")
        letters = "abcd"[: len(x.row.streams)]
        return r.product(f"{letters},{letters[:-1]}->{letters}", x.row, number)

    def inverse_rms(self, x: Term, eps: float) -> Row:
        """1 / sqrt(mean of squares over the last dim + eps)"""
        letters = "abcd"[: len(x.row.streams)]
        total, count = self.total(Term(r.product(f"{letters},{letters}->{letters}", x.row, x.row), x.dims))
        return self.make(r.Rsqrt(), r.add(r.mul(total, 1 / count), eps))


Rule = Callable[[Lowering, Any, Sequence[Term], Type], Term]
RULES: dict[type[Op], Rule] = {}
"""How each op is written as row values. A new op of rows adds itself here by `rule`."""


def rule(*ops: type[Op]) -> Callable[[Rule], Rule]:
    def register(made: Rule) -> Rule:
        for op in ops:
            RULES[op] = made
        return made

    return register


def _lifted(low: Lowering, x: Term, dims: tuple[int, ...], param: bool) -> Row:
    """x with as many streams as a result of these dims needs, by repeating."""
    return x.row


@rule(row.Binary)
def _binary(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    a = ins[0]
    if len(ins) == 1:
        number = float(op.number)
        made = {
            "+": lambda: r.add(a.row, number),
            "-": lambda: r.add(a.row, -number),
            "*": lambda: r.mul(a.row, number),
            "/": lambda: r.mul(a.row, 1 / number),
        }[op.sign]()
        return Term(made, a.dims)
    b = ins[1]
    x, y, dims = _broadcast(low, a, b)
    if op.sign == "+":
        return Term(r.add(x, y), dims)
    if op.sign == "-":
        return Term(r.add(x, r.mul(y, -1.0)), dims)
    return Term(r.mul(x, y if op.sign == "*" else r.recip(y)), dims)


def _broadcast(low: Lowering, a: Term, b: Term) -> tuple[Row, Row, tuple[int, ...]]:
    """Two values with equal streams, or one without, and the dims of what they give together."""
    n = max(len(a.dims), len(b.dims))
    left, right = ((1,) * (n - len(t.dims)) + t.dims for t in (a, b))
    dims = tuple(max(x, y) for x, y in zip(left, right, strict=True))
    made = []
    for t, own in ((a, left), (b, right)):
        if t.folded and own != dims:
            raise Unfit("folded streams meet other dims")
        wanted = dims[:-1] if (a.row.row or b.row.row) and not (a.folded or b.folded) else dims
        if a.folded or b.folded:
            wanted = (a if a.folded else b).row.streams
        own_streams = t.row.streams
        if not own_streams or own_streams == wanted:
            made.append(t.row)
            continue
        mine = own[: len(wanted)] if t.row.row or (a.row.row or b.row.row) else own
        letters = "abcdefg"[: len(wanted)]
        kept = "".join(c for c, m, w in zip(letters, mine, wanted, strict=True) if m == w and w != 1)
        shape = tuple(w for m, w in zip(mine, wanted, strict=True) if m == w and w != 1)
        if math.prod(shape) != math.prod(own_streams):
            raise Unfit(f"{own} beside {dims}")
        flat = t.row if own_streams == shape else low.make(r.Take(start=0, shape=shape), t.row)
        made.append(low.make(r.Spread(kept=kept, made=letters, sizes=tuple(wanted)), flat) if shape != wanted else flat)
    return made[0], made[1], dims


@rule(row.RmsNorm)
def _rms_norm(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    normed = low.over_last(x, low.inverse_rms(x, op.eps))
    if len(ins) == 1:
        return Term(normed, x.dims)
    weight = ins[1].row
    if x.row.streams and not x.folded:
        letters = "abcd"[: len(x.row.streams)]
        return Term(r.product(f"{letters},->{letters}", normed, weight), x.dims)
    return Term(r.mul(normed, weight), x.dims)


@rule(row.InverseRms)
def _inverse_rms(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    return Term(low.inverse_rms(ins[0], op.eps), (*ins[0].dims[:-1], 1))


@rule(row.Cast)
def _cast(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    return x if op.to == "fp32" else Term(low.make(r.Round(format="act"), x.row), x.dims)


def _pointwise(make: Callable[[], Any]) -> Rule:
    def lower(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
        return Term(low.make(make(), ins[0].row), ins[0].dims)

    return lower


RULES[row.Sigmoid] = _pointwise(r.Sigmoid)


@rule(row.Silu)
def _silu(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    return Term(r.mul(x.row, low.make(r.Sigmoid(), x.row)), x.dims)


@rule(row.Clamp)
def _clamp(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    return Term(low.make(r.Clip(low=op.low, high=op.high), ins[0].row), ins[0].dims)


@rule(row.Relu)
def _relu(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    return Term(low.make(r.Clip(low=0.0, high=math.inf), ins[0].row), ins[0].dims)


@rule(row.Swiglu)
def _swiglu(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    gate, up = ins[0].row, ins[1].row
    if op.limit is not None:
        gate = low.make(r.Clip(low=-math.inf, high=op.limit), gate)
        up = low.make(r.Clip(low=-op.limit, high=op.limit), up)
    opened = r.mul(gate, low.make(r.Sigmoid(), r.mul(gate, op.alpha)))
    return Term(r.mul(opened, r.add(up, op.shift)), ins[0].dims)


@rule(row.Softmax)
def _softmax(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    most = low.make(r.RowMax() if x.row.row else r.StreamMax(), x.row)
    e = low.make(r.Exp(), r.add(x.row, r.mul(_again(low, x, most), -1.0)))
    return Term(low.over_last(Term(e, x.dims), r.recip(low.total(Term(e, x.dims))[0])), x.dims)


def _again(low: Lowering, x: Term, number: Row) -> Row:
    """What x has one of for its last dim, for each of that."""
    if x.row.row:
        return number
    letters = "abcd"[: len(x.row.streams)]
    return low.make(r.Spread(kept=letters[:-1], made=letters, sizes=x.row.streams), number)


@rule(streams.Normalize)
def _normalize(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    return Term(low.over_last(x, r.recip(r.add(low.total(x)[0], op.eps))), x.dims)


@rule(streams.Collapse)
def _collapse(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x, weights = ins
    if len(x.row.streams) != 1 or not x.row.row:
        raise Unfit("collapse of what has no streams")
    return Term(r.product("k,k->", weights.row, x.row), x.dims[1:])


@rule(streams.Mix)
def _mix(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x, comb, y, post = (t.row for t in ins)
    if len(x.streams) != 1 or not x.row:
        raise Unfit("mix of what has no streams")
    return Term(r.add(r.product("k,->k", post, y), r.product("jk,j->k", comb, x)), ins[0].dims)


@rule(streams.Sinkhorn)
def _sinkhorn(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    if len(x.row.streams) != 2 or x.row.row:
        raise Unfit("sinkhorn of what is no matrix of streams")

    def by_rows(m: Row) -> Row:
        return r.product("jk,j->jk", m, r.recip(r.add(r.product("jk->j", m), op.eps)))

    def by_columns(m: Row) -> Row:
        return r.product("jk,k->jk", m, r.recip(r.add(r.product("jk->k", m), op.eps)))

    if op.eps == 0:
        raise Unfit("logarithms")
    m = r.add(_softmax(low, op, [x], out).row, op.eps)
    return Term(r.repeat(op.iters - 1, lambda m: by_columns(by_rows(m)), by_columns(m)), x.dims)


@rule(streams.Sum)
def _sum(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    letters = "abcd"[: len(x.row.streams)]
    at = op.dim + len(x.dims)
    gone = letters[at] if at < len(letters) else None
    if gone is None:
        raise Unfit("sum over what are no streams")
    return Term(r.product(f"{letters}->{letters.replace(gone, '')}", x.row), (*x.dims[:at], *x.dims[at + 1 :]))


@rule(streams.SignedSqrt)
def _signed_sqrt(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0].row
    sign = low.make(r.Sign(), x)
    size = low.make(r.Clip(low=op.floor, high=math.inf), r.mul(x, sign))
    return Term(r.mul(sign, low.make(r.Sqrt(), size)), ins[0].dims)


@rule(matrix.Project)
def _project(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x, weight = ins
    if not x.row.row or weight.row.token or weight.row.streams[1:] != x.row.streams:
        raise Unfit("a projection of what is no row")
    return Term(low.make(r.Project(), x.row, weight.row), low.dims(out))


@rule(row.Rotate)
def _rotate(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x, angles = ins
    turned = 2 * angles.dims[0]
    return Term(
        low.make(Rotate(turned=turned, pairs=op.pairs, end=op.end, inverse=op.inverse), x.row, angles.row), x.dims
    )


@rule(view.Split)
def _split(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Any:
    x = ins[0]
    if x.row.row or len(x.row.streams) != 1:
        raise Unfit("a row in parts")
    starts = [sum(op.sizes[:i]) for i in range(len(op.sizes))]
    return tuple(
        Term(low.make(r.Take(start=s, shape=(n,)), x.row), (n,)) for s, n in zip(starts, op.sizes, strict=True)
    )


@rule(view.Unbind)
def _unbind(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Any:
    x = ins[0]
    if x.row.row or len(x.row.streams) != 1:
        raise Unfit("a row in parts")
    return tuple(Term(low.make(r.Take(start=i, shape=()), x.row), ()) for i in range(x.dims[-1]))


@rule(view.Unflatten)
def _unflatten(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    if x.row.row:
        if x.folded and tuple(op.sizes) == (*x.row.streams, low.width):
            return Term(x.row, tuple(op.sizes))
        raise Unfit("a row in parts")
    dims = (*x.dims[:-1], *op.sizes)
    return Term(low.make(r.Take(start=0, shape=dims), x.row), dims)


@rule(view.Flatten)
def _flatten(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    dims = (*x.dims[:-2], x.dims[-2] * x.dims[-1])
    if x.row.row:
        if len(x.row.streams) != 1:
            raise Unfit("streams in one with their row")
        return Term(x.row, dims)
    return Term(low.make(r.Take(start=0, shape=dims), x.row), dims)


@rule(view.Unsqueeze)
def _unsqueeze(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    dims = list(x.dims)
    dims.insert(len(dims) + 1 + op.dim, 1)
    if x.row.row and op.dim == -1:
        raise Unfit("a dim after a row")
    made = low.make(r.Take(start=0, shape=tuple(dims)), x.row) if not x.row.row else x.row
    if x.row.row:
        made = low.make(r.Take(start=0, shape=tuple(dims[:-1])), x.row)
    return Term(made, tuple(dims))


@rule(view.Expand)
def _expand(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    x = ins[0]
    if not x.row.row or x.row.streams:
        raise Unfit("copies of streams")
    return Term(low.make(r.Spread(kept="", made="k", sizes=(op.n,)), x.row), (op.n, *x.dims))


@rule(view.Detach)
def _detach(low: Lowering, op: Any, ins: Sequence[Term], out: Type) -> Term:
    raise Unfit("constants")


def lowered(
    nodes: Sequence[Node], leaves: Mapping[Value, str], wanted: Mapping[str, Value], lead: int, width: int
) -> Lowered:
    """The program of ``nodes`` (views among them included): ``leaves`` come from memory, ``wanted`` go there."""
    low = Lowering(lead, width)
    terms: dict[Value, Term] = {}
    takes: dict[str, tuple[Value, Row]] = {}

    def term(value: Value) -> Term:
        if value not in terms:
            name = leaves.get(value)
            if name is None:
                raise Unfit(f"{value} comes from elsewhere")
            terms[value] = low.leaf(name, value)
            takes[name] = (value, terms[value].row)
        return terms[value]

    for node in nodes:
        lower = RULES.get(type(node.op))
        if lower is None:
            raise Unfit(f"{node.op.kind} has no row program")
        if isinstance(node.op, row.Cast) and len(node.ins) > 1:
            ins = [term(node.ins[0])]
        else:
            ins = [term(v) for v in node.ins]
        made = lower(low, node.op, ins, node.outs[0].type)
        several: Sequence[Term] = made if len(node.outs) > 1 else (made,)  # pyright: ignore[reportAssignmentType]
        terms.update(zip(node.outs, several, strict=True))
    for name, value in wanted.items():
        low.program.named(name, terms[value].row)
    return Lowered(width, takes, {name: (value, terms[value].row) for name, value in wanted.items()})
