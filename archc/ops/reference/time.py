"""References of state over time and of positions (`kernels/state.py`, `rope_angles.py`)."""

from __future__ import annotations

from archc.ops.base import Type, Workload, element, nbytes, numel, size
from archc.ops.calls import Calls, call, convert
from archc.ops.reference.compress import opened
from archc.ops.time import Append, Recall, RopeAngles

Types = tuple[Type, ...]

REWIND = 8
"""Tokens that a cache can take back unless told otherwise, for which its rings have room."""


def token_ids(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return ()


time_of = token_ids


def stored(t: Type, w: Workload) -> int:
    """Bytes of an element in a cache: the model's, or the layout's where that is wider. Packed rows count as plain."""
    here = element(t.dtype, w)
    return max(here, 4 if w.layout == "fp32" else 2) if t.dtype in ("act", "fp32") else here


def rope_angles(op: RopeAngles, w: Workload, ins: Types, outs: Types) -> Calls:
    """Frequencies are made once and kept."""
    half, n = 4 * (op.dim // 2), nbytes(outs[0], w) // 2
    tokens = numel(outs[0].shape[:2], w)
    first: Calls = ()
    if op.every > 1 or op.back:
        first = *opened(w, tokens // w.batch), call("map", 8 * tokens, 8 * tokens, 1 + bool(op.back))
    if not n:
        return *first, *convert(tokens, 8, 4)
    grown = () if op.magnitude == 1 else (call("map", n, n, 2),)
    many = call("map", half + 4 * tokens, n), call("exp", n, n, 2), *grown, call("copy", 2 * n, 2 * n)
    return *first, *convert(tokens, 8, 4), *many


def recall(op: Recall, w: Workload, ins: Types, outs: Types) -> Calls:
    """New tokens beside the kept ones, and what the ring then keeps."""
    x, out = ins[0], outs[0]
    if not w.cached:
        return ()
    here, kept = element(x.dtype, w), stored(x, w)
    row = numel(x.shape[2:], w) if len(x.shape) > 2 else 1
    whole, new = numel(out.shape, w), w.batch * w.new * row
    ring = min(op.keep + REWIND, w.past + w.new)
    written = w.batch * min(w.new, ring) * row * kept
    count = min(w.new, ring)
    wraps = (w.past + w.new - count) % ring + count > ring
    parts = call("copy", written, written), *((call("copy", 0, 0),) if wraps else ())
    return *convert(new, here, kept), call("copy", whole * kept, whole * kept), *parts, *convert(whole, kept, here)


def append(op: Append, w: Workload, ins: Types, outs: Types) -> Calls:
    """New entries copied to their place; those before are read where they lie."""
    x = ins[0]
    if not w.cached:
        return ()
    here, kept, new = element(x.dtype, w), stored(x, w), numel(x.shape, w)
    put = (call("copy", new * kept, new * kept),) if new else ()
    return *convert(new, here, kept), *put, *convert(numel(outs[0].shape, w), kept, here)


def rows_kept(t: Type, w: Workload) -> int:
    """Rows of a `Recall` before the new ones."""
    return size(t.shape[1], w) - w.new
