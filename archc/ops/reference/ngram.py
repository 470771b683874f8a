"""References of hashed n-grams and short convolutions (`kernels/ngram_hash.py`, `short_conv.py`, `shift.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, numel
from archc.ops.calls import Calls, call, convert
from archc.ops.ngram import NgramHash, ShortConv
from archc.ops.reference.matrix import embedding

Types = tuple[Type, ...]

table_lookup = embedding


def shifted(w: Workload, n: int, element: int) -> Calls:
    """What stood some tokens before each new one, n bytes in all."""
    slots, inside = 8 * w.batch * w.new, w.batch * w.new
    return (
        call("fill", 0, 8 * w.new),
        call("map", 8 * (w.batch + w.new), slots),
        call("map", slots, slots),
        call("map", slots, inside),
        call("fill", 0, element),
        call("map", n + inside + element, n),
        call("fill", 0, 0),
        call("copy", n, n),
    )


def ngram_hash(op: NgramHash, w: Workload, ins: Types, outs: Types) -> Calls:
    n, tables = 8 * w.batch * w.new, len(op.primes)
    calls: Calls = (call("fill", 0, n),)
    for _ in range(max(op.orders)):
        calls = *calls, *shifted(w, n, 8), call("map", n, n), call("map", 2 * n, n)
    return *calls, call("map", n, n, 2 * tables), call("copy", n * tables, n * tables)


def short_conv(op: ShortConv, w: Workload, ins: Types, outs: Types) -> Calls:
    recent, _, weight = ins
    n, here = numel(outs[0].shape, w), element(recent.dtype, w)
    wide, tap = max(4, here), nbytes(weight, w) // op.taps
    calls = convert(numel(recent.shape, w), here, wide)
    for i in range(op.taps):
        calls = *calls, *shifted(w, n * wide, wide), call("map", n * wide + tap, n * wide)
        if i:
            calls = *calls, call("map", 2 * n * wide, n * wide)
    return *calls, *convert(n, wide, here)
