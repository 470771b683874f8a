"""References of what tokens skip layers by (`kernels/bypass.py`), where nobody learns."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, numel
from archc.ops.calls import Calls, call, convert

Types = tuple[Type, ...]


def unsure(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return (call("fill", 0, nbytes(outs[0], w)),)


def decide(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    n, size = numel(outs[0].shape, w), nbytes(outs[0], w)
    return call("map", size, n), call("cast", n, size)


def either(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    n = nbytes(outs[0], w)
    return (call("map", 2 * n, n, 3),)


def hold(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    before, after, confidence = ins
    here, tokens = element(before.dtype, w), numel(confidence.shape, w)
    n = nbytes(before, w)
    return (
        *convert(numel(after.shape, w), element(after.dtype, w), here),
        *convert(tokens, element(confidence.dtype, w), here),
        call("map", 2 * n + tokens * here, n),
    )
