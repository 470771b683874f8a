"""References of routing and experts (`kernels/topk_lowest.py`, `expert_rows.py`, `grouped_linear.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, numel, size
from archc.ops.calls import Calls, Kind, call, convert, product
from archc.ops.expert import Dispatch, GroupedLinear, GroupMask

SORTED_WHOLE = 512
"""As in `kernels/topk_lowest.py`."""
LONG = 2048
"""Elements from which a row is long to sort."""

Types = tuple[Type, ...]


def sort(rows: float, width: float, width_bytes: int) -> Calls:
    """A stable sort of rows, with where each element came from."""
    kind: Kind = "sort_long" if width > LONG else "sort"
    n = rows * width
    return (call(kind, n * width_bytes, n * (width_bytes + 8)),)


def topk_lowest(n: float, width: float, k: float, here: int) -> Calls:
    """Ids of the k largest of rows of a width, n elements in all."""
    if n <= SORTED_WHOLE:
        return sort(n // width, width, here)
    places = call("cast", 4 * n, 8 * n), call("map", 8 * n, 8 * n, 1), call("fill", 0, 8 * width)
    keys = *places, call("map", 8 * (n + width), 8 * n)
    wide = *convert(n, here, 4), call("map", 4 * n, 4 * n, 3), call("map", 8 * n, 4 * n)
    return *wide, *keys, call("topk", 8 * n, 16 * n // width * k)


def topk(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    x = ins[0]
    return topk_lowest(numel(x.shape, w), x.last, outs[0].last, element(x.dtype, w))


def sqrt_softplus(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    n = nbytes(ins[0], w)
    few = numel(ins[0].shape, w)
    kinds = call("map", n, n, 6), call("map", n, few), call("exp", n, 2 * n), call("exp", n, n)
    return *kinds, call("map", 2 * n + few, n)


def group_mask(op: GroupMask, w: Workload, ins: Types, outs: Types) -> Calls:
    x = ins[0]
    n, here = numel(x.shape, w), element(x.dtype, w)
    rows = n // x.last
    worth, best = rows * op.groups, min(op.best, x.last // op.groups)
    return (
        call("topk", n * here, worth * best * (here + 8)),
        call("reduce", worth * best * here, worth * here),
        call("fill", worth * here, worth),
        *topk_lowest(worth, op.groups, op.keep, here),
        call("pick", worth + rows * op.keep * 8, worth),
        call("map", worth, worth),
        call("map", n * here + worth, n * here),
    )


def gather(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    out = nbytes(outs[0], w)
    return (call("pick", out + nbytes(ins[1], w), out),)


def lookup(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    out = nbytes(outs[0], w)
    return (call("rows", out + nbytes(ins[1], w), out),)


def dispatch(op: Dispatch, w: Workload, ins: Types, outs: Types) -> Calls:
    _, ids = ins
    choices, ends = numel(ids.shape, w), op.experts
    found = *sort(1, choices, 8), call("fill", 0, 8 * ends), call("pick", 8 * (choices + ends), 4 * ends)
    if choices == ids.last:  # the one token's row, as often as it is wanted
        return found
    rows = nbytes(outs[0], w)
    return *found, call("map", 8 * choices, 8 * choices), call("rows", rows + 8 * choices, rows)


def grouped_linear(op: GroupedLinear, w: Workload, ins: Types, outs: Types) -> Calls:
    """One product for each expert that is chosen: as many as expected if every choice is as likely."""
    x, ends = ins[:2]
    rows, experts, here = size(x.shape[0], w), ends.last, element(x.dtype, w)
    chosen = experts * (1 - (1 - op.active / experts) ** (rows // op.active))
    own = sum(nbytes(t, w) for t in ins[2:]) / experts
    add = sum(nbytes(t, w) for t in ins[3:]) / experts
    return (product(rows / chosen, x.last, op.out, element=here, cold=own, times=chosen, add=add),)


def combine(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    y, weights, order = ins
    n, here, c = numel(y.shape, w), element(y.dtype, w), numel(order.shape, w)
    scale, wide = element(weights.dtype, w), max(4, here)
    if c == weights.last:
        picked = *convert(c, scale, wide), call("rows", (wide + 8) * c, wide * c), *convert(n, here, wide)
        out = n // c
        return (
            *picked,
            call("map", (n + c) * wide, n * wide),
            call("reduce", n * wide, out * wide),
            *convert(out, wide, here),
        )
    out = numel(outs[0].shape, w)
    return (
        call("fill", 0, 8 * c),
        call("fill", 0, 8 * (c // weights.last)),
        call("pick", 16 * c, 16 * c),
        *convert(n, here, wide),
        *convert(c, scale, wide),
        call("bag", n * wide + c * (8 + wide) + 8 * (c // weights.last), out * wide),
        *convert(out, wide, here),
    )
