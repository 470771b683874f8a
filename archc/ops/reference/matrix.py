"""References of matrix products."""

from __future__ import annotations

from math import prod

from archc.ops.base import Type, Workload, element, nbytes, numel, size
from archc.ops.calls import Calls, call, product
from archc.ops.matrix import Einsum

Types = tuple[Type, ...]


def linear(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    x, weight = ins[:2]
    own = sum(nbytes(t, w) for t in ins[1:])
    out, width = weight.fixed(0), element(outs[0].dtype, w)
    add = sum(nbytes(t, w) for t in ins[2:])
    return (product(numel(x.shape, w) // x.last, x.last, out, element=width, cold=own, add=add),)


project = linear


def embedding(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    rows = nbytes(outs[0], w)
    return (call("rows", rows + nbytes(ins[0], w), rows),)


embed = embedding


def einsum(op: Einsum, w: Workload, ins: Types, outs: Types) -> Calls:
    """As a batched product of two operands; of those that do not lie as it needs them copies are made."""
    letters, out = op.spec.split("->")
    left, right = letters.split(",")
    sizes = {c: size(d, w) for ls, t in zip((left, right), ins, strict=True) for c, d in zip(ls, t.shape, strict=True)}
    width = element(outs[0].dtype, w)
    batch = [c for c in left if c in right and c in out]
    summed = [c for c in left if c in right and c not in out and sizes[c] != 1]
    if not summed:
        return (call("map", sum(nbytes(t, w) for t in ins), nbytes(outs[0], w)),)
    m = [c for c in left if c not in right]
    n = [c for c in right if c not in left]

    def many(cs: list[str]) -> int:
        return prod(sizes[c] for c in cs)

    run = product(many(m), many(summed), many(n), batch=many(batch), element=width)
    if many(batch) == 1 or many(m) == 1:
        return (run,)
    # Its batch comes first; what takes rows of the result lays them out
    laid = nbytes(outs[0], w)
    return run, call("copy", laid, laid)
