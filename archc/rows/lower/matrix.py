"""Products of few numbers and rows, as row values."""

from __future__ import annotations

import math

from archc.ops import matrix
from archc.rows import rules as r
from archc.rows.lower.lowering import MOST_NUMBERS, Lowering, Term, Unfit, rule
from archc.rows.value import Row


@rule(matrix.Project)
def _project(low: Lowering, op: matrix.Project, x: Term, weight: Term) -> Term:
    outer, last = low.letters(x)
    if weight.row.token:
        raise Unfit("a projection by what is no parameter")
    if x.row.row != weight.row.row:
        raise Unfit(f"a projection of what is no row of {low.width} channels")
    out = weight.dims[0]
    made = _projected(low, x.row, weight.row, outer, last, out)
    return low.term(made, (*x.dims[:-1], out), headed=x.headed)


def _projected(low: Lowering, x: Row, weight: Row, outer: str, last: str, out: int) -> Row:
    """x by a weight [out, last] of rows, for each of its ``outer`` streams."""
    to = "z" if out > 1 else ""
    if out > MOST_NUMBERS:
        raise Unfit(f"a projection to {out} channels, more than {MOST_NUMBERS}")
    if x.row and to and not outer:
        return low.called("projected", low.make(r.Project(), x, weight))
    # Of few streams and channels, as of dynamic hyper-connections, no product of matrices is worth its tiles
    made = r.product(f"{outer}{last},{to}{last}->{outer}{to}", x, weight)
    low.small(made.streams, row=False)
    return low.called("projected", low.make(r.RowSum(), made) if x.row else made)


@rule(matrix.Einsum)
def _einsum(low: Lowering, op: matrix.Einsum, *ins: Term) -> Term:
    left, out = op.spec.split("->")
    names = left.split(",")
    lead = next((s[: len(low.tokens)] for s, t in zip(names, ins, strict=True) if t.row.token), None)
    if lead is None or not out.startswith(lead):
        raise Unfit(f"{op.spec}: tokens do not come first")
    sizes: dict[str, int] = {}
    own = []
    for letters, t in zip(names, ins, strict=True):
        mine = letters.removeprefix(lead) if t.row.token else letters
        if set(mine) & set(lead):
            raise Unfit(f"{op.spec}: tokens do not come first")
        sizes.update(zip(mine, t.dims, strict=True))
        own.append(mine)
    made = out.removeprefix(lead)
    heads = made[: len(low.heads)] if any(t.headed for t in ins) else ""
    for mine, t in zip(own, ins, strict=True):
        if (t.headed and not mine.startswith(heads)) or (not t.headed and set(heads) & set(mine)):
            raise Unfit(f"{op.spec}: heads do not come first")
    return _summed(low, op, [s.removeprefix(heads) for s in own], made.removeprefix(heads), sizes, ins, heads)


def _summed(
    low: Lowering,
    op: matrix.Einsum,
    own: list[str],
    made: str,
    sizes: dict[str, int],
    ins: tuple[Term, ...],
    heads: str,
) -> Term:
    """A sum of products whose letters are those of streams and of the row alone."""
    ends = {s[-1:] for s, t in zip(own, ins, strict=True) if t.row.row}
    if len(ends) > 1 or any(c in s for c in ends for s, t in zip(own, ins, strict=True) if not t.row.row):
        raise Unfit(f"{op.spec}: rows meet across channels")
    channels = next(iter(ends), "")
    if channels and any(channels in s[:-1] for s in (*own, made)):
        raise Unfit(f"{op.spec}: channels do not come last")
    counts = {c: n // low.width if c == channels else n for c, n in sizes.items()}
    specs = ["".join(c for c in s if counts[c] != 1) for s in own]
    result = "".join(c for c in made if counts[c] != 1)
    dims = tuple(sizes[c] for c in heads + made)
    headed = bool(heads)
    if channels and channels not in made and len(ins) == 2 and sum(t.row.token for t in ins) == 1:
        (x, weight), (inner, of) = (ins, own) if ins[0].row.token else (ins[::-1], own[::-1])
        free = of.removesuffix(inner)
        if free + inner == of and made == free and math.prod(sizes[c] for c in free) > 1:
            last = "".join(c for c in inner if counts[c] != 1)
            row = _projected(low, x.row, weight.row, "", last, math.prod(sizes[c] for c in free))
            return low.term(row, dims, headed=headed)
    streams = [math.prod(counts[c] for c in {*s}) for s in (*specs, result)]
    low.small((max(streams),), row=bool(channels))
    row = r.product(f"{','.join(specs)}->{result}", *(t.row for t in ins))
    if channels and channels not in made:
        row = low.make(r.RowSum(), row)
    return low.term(row, dims, headed=headed)
