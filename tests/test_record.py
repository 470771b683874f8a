"""Records: frozen, keyword-only, inherited."""

from __future__ import annotations

from typing import ClassVar

import pytest

from archc.record import Record


class Point(Record):
    """A point."""

    origin: ClassVar[str] = "o"
    x: int
    y: int = 2


class Solid(Point):
    """A point in space."""

    z: int = 3


def test_fields_come_with_their_bases_first() -> None:
    assert list(Solid.fields) == ["x", "y", "z"]
    assert repr(Solid(x=1)) == "Solid(x=1, y=2, z=3)"
    assert "origin" not in Solid.fields


def test_equal_by_class_and_values() -> None:
    assert Point(x=1) == Point(y=2, x=1)
    assert hash(Point(x=1)) == hash(Point(y=2, x=1))
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Solid(x=1)


def test_frozen_and_replaced() -> None:
    point = Point(x=1)
    with pytest.raises(AttributeError, match="Point is frozen"):
        point.x = 5  # pyright: ignore[reportAttributeAccessIssue]
    assert point.replaced(y=7) == Point(x=1, y=7)


def test_wrong_fields_are_named() -> None:
    with pytest.raises(TypeError, match="Point has no field z; its fields: x, y"):
        Point(x=1, z=2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="Point needs x"):
        Point()  # pyright: ignore[reportCallIssue]
