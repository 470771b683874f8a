"""Chains of the graph's ops as row programs."""

from __future__ import annotations

from archc.ops import OPS
from archc.ops.base import Op
from archc.rows.lower import REASONS, RULES


def test_every_row_local_op_is_a_rule_or_has_a_reason() -> None:
    local = {op for op in OPS.values() if op.row is not Op.row}
    assert local == RULES.keys() | REASONS.keys()
    assert not RULES.keys() & REASONS.keys()
