"""Class names from drawer names."""

from __future__ import annotations

import pytest

from archc.plan.assemble import class_name
from archc.plan.names import camel


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("moe", "Moe"),
        ("hash_moe", "HashMoe"),
        ("_", "Drawer"),
        ("_1a", "Drawer1a"),
        ("none", "DrawerNone"),
        ("V4", "V4"),
    ],
)
def test_every_name_of_a_drawer_gives_a_class(name: str, cls: str) -> None:
    assert camel(name) == cls


def test_an_attention_says_so_once() -> None:
    assert class_name("attention", "swa") == "SwaAttention"
    assert class_name("attention", "full_attention") == "FullAttention"
    assert class_name("ffn", "dense") == "Dense"
