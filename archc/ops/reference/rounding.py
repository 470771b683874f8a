"""References of rounding (`kernels/hadamard.py`, `quantise.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, numel
from archc.ops.calls import Calls, call, convert
from archc.ops.rounding import GROUP, Quantise

Types = tuple[Type, ...]


def hadamard(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    """A copy, and in each pass sums and differences of all pairs."""
    x = ins[0]
    n, here = numel(x.shape, w), element(x.dtype, w)
    wide = max(4, here)
    size, passes = n * wide, x.last.bit_length() - 1
    if not n:
        return ()
    copied = (call("copy", size, size),) if wide == here else convert(n, here, wide)
    half = call("map", size, size / 2, passes), call("update", size, size / 2, passes)
    moved = call("copy", size / 2, size / 2, passes)
    return *copied, *half, moved, call("update", size, size), *convert(n, wide, here)


def quantise(op: Quantise, w: Workload, ins: Types, outs: Types) -> Calls:
    """The scales of groups, and numbers in steps."""
    x = ins[0]
    n, here = numel(x.shape, w), element(x.dtype, w)
    groups = n // min(x.last, GROUP[op.to])
    size, few = n * 4, groups * 4
    top = call("map", size, size), call("reduce", size, few), call("map", few, few)
    # Of the bits of the largest numbers: shift, subtract, mask, compare, add, shift; then what is not finite
    scale = call("map", few, few, 5), call("map", few, groups), call("map", few + groups, few)
    scale = *scale, call("map", 2 * few, few)
    scaled = (call("map", size + few, size),)
    step = (call("map", size, size, 5),)
    rounded = call("map", 2 * size, size), call("update", size, size), call("update", 2 * size, size)
    rounded = *rounded, call("update", size + few, size)
    return *convert(n, here, 4), *top, *scale, *scaled, *step, *rounded, *convert(n, 4, here)
