"""References of what regroups elements: views, but for what lies side by side."""

from __future__ import annotations

from archc.ops.base import Type, Workload
from archc.ops.calls import Calls
from archc.ops.reference.row import one

Types = tuple[Type, ...]


def cat(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return one("copy", w, ins, outs)


def tokenwise(op: object, w: Workload, ins: Types, outs: Types) -> Calls:
    return one("copy", w, ins[:1], outs)
