"""Grouped-query attention: rules between its fields."""

from __future__ import annotations

import pytest

from tests.resolve.support import FFN, one, only, spec


def gqa(fields: str) -> str:
    return spec(f"attention = gqa {{ heads = 4, {fields} }}\n{FFN}")


@pytest.mark.parametrize(
    ("fields", "place", "message"),
    [
        ("kv_heads = 3", "3", "kv_heads = 3 does not divide heads = 4"),
        ("head_dim = 7, rope = rope", "7", "head_dim = 7 channels do not form pairs, which the rope rotates"),
        ("head_dim = 6, rope = rope { dim = 8 }", "8", "the rope rotates 8 channels, but head_dim is 6"),
    ],
)
def test_rules(fields: str, place: str, message: str) -> None:
    """Reported at the value that was written."""
    problem = only(gqa(fields))
    assert (problem.code, problem.message) == ("E0210", message)
    assert problem.span is not None
    assert problem.span.text == place


PARTS = ("head_dim = 7", "head_dim = 7, rope = rope { dim = 6 }", "head_dim = 6, rope = rope")


@pytest.mark.parametrize("fields", PARTS)
def test_odd_heads_may_rotate_a_part(fields: str) -> None:
    assert one(gqa(fields)).schedule[0].attention is not None
