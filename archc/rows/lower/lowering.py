"""What a chain of the graph's ops becomes a row program by: terms, and the algebra that rules of ops share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from archc.graph import Value
from archc.ops import Op, Shape, Type
from archc.rows import rules as r
from archc.rows.value import Program, Row, Rule, Streams

Dims = tuple[int, ...]

MOST_NUMBERS = 80
"""Numbers of a token that printers write out one by one: the coefficients of eight streams, n n + 2 n of them."""
MOST_ROWS = 16
"""Rows of a token that printers write out one by one."""


class Unfit(Exception):
    """Ops that cannot be one row program, and why."""


class Term(NamedTuple):
    """A value of the graph in a row program.

    ``dims`` are those after the dims of tokens, heads among them. In memory order they are just the streams of ``row``
    and its channels: a last dim of several rows' widths stands for that many streams, and dims of 1 for none.
    """

    row: Row
    dims: Dims
    headed: bool = False
    """Whether each head of a token has its own, where a program's tokens are heads of tokens."""


class Leaf(NamedTuple):
    """An operand as the graph has it: a value, and the name under which it comes from memory, if it does."""

    name: str
    value: Value


class Lowering:
    """Makes a program of rows ``width`` wide, whose tokens are what ``tokens`` and ``heads``, dims of values, count.

    Where it works on ``blocks``, these are in one dim with their channels, as heads that nothing tells apart are.
    """

    def __init__(self, tokens: Shape, heads: Dims, width: int, *, blocks: bool = False) -> None:
        self.program, self.tokens, self.heads, self.width, self.blocks = Program(), tokens, heads, width, blocks
        self.takes: dict[str, Row] = {}

    def make(self, rule: Rule, *args: Row) -> Row:
        """A value."""
        return self.program.make(rule, *args)

    def called(self, hint: str, value: Row) -> Row:
        """The value, which is called so in what is printed if nothing else names it."""
        return self.program.hinted(hint, value)

    # --- dims ----------------------------------------------------------------------------------------
    def wide(self, dims: Dims) -> bool:
        """Whether a value from memory with these dims is made of rows, each of its last dim or of several together."""
        if self.width == 1 or not dims:
            return False
        return dims[-1] % self.width == 0 or (math.prod(dims) > MOST_NUMBERS and math.prod(dims) % self.width == 0)

    def streams(self, dims: Dims, *, row: bool) -> Streams:
        """The streams of a value with these dims; rows of several dims together are one line."""
        whole = not row or (bool(dims) and dims[-1] % self.width == 0)
        sizes = self.sizes(dims, row=row) if whole else (math.prod(dims) // self.width,)
        return tuple(n for n in sizes if n != 1)

    def sizes(self, dims: Dims, *, row: bool) -> Dims:
        """How many streams each dim counts."""
        if not row:
            return dims
        if not dims or dims[-1] % self.width:
            raise Unfit(f"{list(dims)} are not whole rows of {self.width} channels")
        return *dims[:-1], dims[-1] // self.width

    def rest(self, x: Term) -> Dims:
        """Dims of what each token of the program has."""
        count = len(self.heads) if x.headed else 0
        if x.headed and x.dims[:count] != self.heads:
            raise Unfit("heads are in one dim with their channels")
        return x.dims[count:]

    def term(self, row: Row, dims: Dims, *, headed: bool = False) -> Term:
        """A value with these dims, whatever streams it had."""
        folded = headed and dims[: len(self.heads)] != self.heads
        own = dims[len(self.heads) :] if headed and not folded else dims
        if not folded:
            streams = self.streams(own, row=row.row)
            if row.streams != streams:
                row = self.make(r.Take(start=0, shape=streams), row)
        self.small(row.streams, row=row.row, token=row.token)
        return Term(row, dims, headed)

    def small(self, streams: Streams, *, row: bool, token: bool = True) -> None:
        """Raises `Unfit` where printers would have to write out too many streams."""
        count = math.prod(streams)
        if token and count > (MOST_ROWS if row else MOST_NUMBERS):
            what = f"rows of {self.width} channels" if row else "numbers"
            raise Unfit(f"a token has {count} {what}: more than {MOST_ROWS if row else MOST_NUMBERS} are not unrolled")

    def like(self, row: Row, x: Term) -> Term:
        """A value with the dims of another."""
        return self.term(row, x.dims, headed=x.headed)

    def letters(self, x: Term) -> tuple[str, str]:
        """A letter for each stream axis: those of all dims but the last, and that of the last."""
        sizes = self.sizes(self.rest(x), row=x.row.row)
        names = ["" if n == 1 else "abcdefgh"[i] for i, n in enumerate(sizes)]
        return "".join(names[:-1]), names[-1] if names else ""

    # --- leaves --------------------------------------------------------------------------------------
    def leaf(self, name: str, value: Value) -> Term:
        """A value that comes from memory."""
        dims = self.dims(value)
        form = self.format(value)
        if value.param is not None:
            row = self.wide(dims)
            streams = self.streams(dims, row=row)
            if not row and math.prod(dims) > MOST_NUMBERS:
                raise Unfit(f"the parameter {value.param.name} {value.type} has no rows of {self.width} channels")
            return Term(self.take(name, r.Param(name=name, streams=streams, row=row, format=form)), dims)
        mine = bool(self.heads) and dims[: len(self.heads)] == self.heads
        own = dims[len(self.heads) :] if mine else dims
        if self.blocks and dims == (self.heads[0] * self.width,):
            mine, own = True, (self.width,)
        shared = 1 if mine else math.prod(self.heads)
        if shared > 1 and value.step is None:
            raise Unfit(f"{value.type} is shared by the heads {list(self.heads)} of a token, and has a gradient")
        row = self.wide(own)
        streams = self.streams(own, row=row)
        self.small(streams, row=row)
        leaf = self.take(name, r.Input(name=name, streams=streams, row=row, format=form, shared=shared))
        return Term(leaf, dims, mine)

    def angles(self, given: Leaf) -> Row:
        """The angles [pairs, 2] of tokens, the same for all heads, as a leaf."""
        if not given.name:
            raise Unfit("turns by angles that do not come from memory")
        dims, form = self.dims(given.value), self.format(given.value)
        shared = math.prod(self.heads)
        return self.take(given.name, r.Input(name=given.name, streams=dims, format=form, shared=shared))

    def take(self, name: str, rule: r.Input | r.Param) -> Row:
        """A leaf, noted as taken."""
        made = self.make(rule)
        if self.takes.setdefault(name, made) is not made:
            raise Unfit(f"{name} is read in two ways")
        return made

    def dims(self, value: Value) -> Dims:
        """Dims after those of tokens; all of a parameter."""
        shape = value.shape
        if value.param is None:
            if shape[: len(self.tokens)] != self.tokens:
                raise Unfit(f"{value.type} is not one of tokens [{', '.join(map(str, self.tokens))}]")
            shape = shape[len(self.tokens) :]
        dims = tuple(n for n in shape if isinstance(n, int))
        if len(dims) != len(shape):
            raise Unfit(f"{value.type} depends on the workload beyond its tokens")
        return dims

    @staticmethod
    def format(value: Value) -> Literal["act", "fp32"]:
        """The format of a value in memory."""
        if value.type.dtype not in ("act", "fp32"):
            raise Unfit(f"{value.type} holds no real numbers but {value.type.dtype}")
        return value.type.dtype

    # --- what ops are made of ------------------------------------------------------------------------
    def meet(self, a: Term, b: Term) -> tuple[str, str, str, Streams, Term]:
        """Letters of the streams of two operands whose dims broadcast, letters and sizes of those of the result, and
        a term with the dims of the result.
        """
        if a.headed and b.headed and a.dims == b.dims and a.row.axes == b.row.axes:
            letters = "abcdefgh"[: len(a.row.streams)]
            return letters, letters, letters, a.row.streams, a
        n = max(len(a.dims), len(b.dims))
        headed = a.headed or b.headed
        skip = len(self.heads) if headed else 0
        padded = [(1,) * (n - len(t.dims)) + t.dims for t in (a, b)]
        dims = tuple(max(pair) for pair in zip(*padded, strict=True))
        for t, own in zip((a, b), padded, strict=True):
            if t.headed and (len(t.dims) < n or t.dims[:skip] != self.heads):
                raise Unfit("heads are in one dim with their channels")
            if headed and not t.headed and any(m != 1 for m in own[:skip]):
                raise Unfit(f"heads {list(self.heads)} differ in a value that is not one of tokens")
        row = a.row.row or b.row.row
        rest = dims[skip:]
        sizes = self.sizes(rest, row=row)
        names = ["" if size == 1 else "abcdefgh"[i] for i, size in enumerate(sizes)]
        kept = []
        for t, own in zip((a, b), padded, strict=True):
            if row and not t.row.row and own[-1:] != (1,) and rest:
                raise Unfit(f"{own[-1]} numbers meet a row of {self.width} channels")
            same = [m == d for m, d in zip(own[skip:], rest, strict=True)]
            kept.append("".join(c for c, stays in zip(names, same, strict=True) if stays))
        made = tuple(size for size in sizes if size != 1)
        self.small(made, row=row)
        return kept[0], kept[1], "".join(names), made, Term(a.row, dims, headed)

    def times(self, a: Term, b: Term) -> Term:
        """a * b, broadcast from the right."""
        first, second, out, _, like = self.meet(a, b)
        return self.like(r.product(f"{first},{second}->{out}", a.row, b.row), like)

    def plus(self, a: Term, b: Term) -> Term:
        """a + b, broadcast from the right."""
        first, second, out, sizes, like = self.meet(a, b)
        x, y = (
            t.row
            if own == out or (not own and other == out)
            else self.make(r.Spread(kept=own, made=out, sizes=sizes), t.row)
            for t, own, other in ((a, first, second), (b, second, first))
        )
        return self.like(r.add(x, y), like)

    def total(self, x: Term) -> Row:
        """The sum over the last dim."""
        outer, last = self.letters(x)
        value = r.product(f"{outer}{last}->{outer}", x.row) if last else x.row
        return self.make(r.RowSum(), value) if value.row else value

    def squares(self, x: Term) -> Row:
        """The sum of squares over the last dim."""
        outer, last = self.letters(x)
        value = self.called("squares", r.product(f"{outer}{last},{outer}{last}->{outer}", x.row, x.row))
        return self.called("sum_of_squares", self.make(r.RowSum(), value)) if value.row else value

    def largest(self, x: Term) -> Row:
        """The largest of the last dim."""
        _, last = self.letters(x)
        value = self.make(r.RowMax(), x.row) if x.row.row else x.row
        return self.make(r.StreamMax(), value) if last else value

    def over_last(self, x: Term, number: Row) -> Row:
        """x times what it has one of for its last dim."""
        outer, last = self.letters(x)
        return r.product(f"{outer}{last},{outer}->{outer}{last}", x.row, number)

    def again(self, x: Term, number: Row) -> Row:
        """What x has one of for its last dim, for each stream of x."""
        outer, last = self.letters(x)
        return self.make(r.Spread(kept=outer, made=outer + last, sizes=x.row.streams), number) if last else number

    def count(self, x: Term) -> int:
        """How many elements the last dim has."""
        rest = self.rest(x)
        if not rest:
            raise Unfit("the last dim is one of tokens")
        return rest[-1]

    def inverse_rms(self, x: Term, eps: float) -> Row:
        """1 / sqrt(mean of squares over the last dim + eps)"""
        mean = self.called("mean_square", r.mul(self.squares(x), 1 / self.count(x)))
        return self.called("inverse_rms", self.make(r.Rsqrt(), r.add(mean, eps)))


Lower = Callable[..., "Term | Sequence[Term]"]


class Entry(NamedTuple):
    """How an op is written as row values; ``raw`` operands are handed to it as a `Leaf`, the others as a `Term`."""

    lower: Lower
    raw: tuple[int, ...] = ()


RULES: dict[type[Op], Entry] = {}
"""How ops are written as row values: functions of the lowering, the op and its operands that give its results."""
BLOCKS: dict[type[Op], Callable[[Any, Type], int]] = {}
"""Ops of which so many channels of their operand after one another are worked on together, and no others."""
REASONS: dict[type[Op], str] = {}
"""Why row-local ops are not written as row values."""


def rule(*ops: type[Op], raw: tuple[int, ...] = ()) -> Callable[[Lower], Lower]:
    """Makes a function the rule of ops. A new row-local op needs nothing else to be fused."""

    def register(made: Lower) -> Lower:
        for op in ops:
            RULES[op] = Entry(made, raw)
        return made

    return register


def pointwise(op: type[Op], made: Callable[[Any], Rule]) -> None:
    """Makes an op of one element at a time a rule of row programs, which ``made`` gives for it."""

    @rule(op)
    def _(low: Lowering, op: Any, x: Term) -> Term:
        return low.like(low.make(made(op), x.row), x)
