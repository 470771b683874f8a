"""Our `dataclass` gives what `dataclasses.dataclass` gives."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.record import dataclass

FORMS = [
    {"frozen": True, "slots": True, "kw_only": True},
    {"frozen": True, "slots": True},
    {"frozen": True},
    {"slots": True, "eq": False},
    {"slots": True, "eq": False, "repr": False},
    {},
]


def classes(form: dict[str, bool]) -> list[Any]:
    """A class of this form as we make it, and as the standard library does."""
    made = []
    for decorate in (dataclass, dataclasses.dataclass):

        @decorate(**form)
        class Point:
            """A point."""

            x: Any
            y: Any = 2
            tags: list[Any] = field(default_factory=list)
            note: Any = field(default=None, compare=False)

        @decorate(**form)
        class Solid(Point):
            """A point in space."""

            z: Any = 0

        made.append((Point, Solid))
    return made


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(values=st.lists(st.one_of(st.integers(-1, 1), st.text(max_size=1), st.none()), min_size=2, max_size=2))
def test_it_does_what_the_standard_one_does(form: dict[str, bool], values: list[Any]) -> None:
    for ours, theirs in zip(*classes(form), strict=True):
        a, b = (cls(x=values[0], y=values[1]) for cls in (ours, theirs))
        assert dataclasses.asdict(a) == dataclasses.asdict(b)
        assert [f.name for f in dataclasses.fields(a)] == [f.name for f in dataclasses.fields(b)]
        if form.get("repr", True):
            assert repr(a) == repr(b)
        for other in ({"x": 1}, {"x": values[0], "y": values[1], "note": 3}, {"x": values[0], "y": 0}):
            assert (a == ours(**other)) == (b == theirs(**other))
        assert dataclasses.asdict(dataclasses.replace(a, x=9)) == dataclasses.asdict(dataclasses.replace(b, x=9))
        assert hasattr(a, "__dict__") == hasattr(b, "__dict__")
        assert ours(x=1).tags is not ours(x=1).tags
        twins = [copy.deepcopy(c) for c in (a, b)]
        assert [t == c for t, c in zip(twins, (a, b), strict=True)] == [form.get("eq", True)] * 2
        for refuse in ({}, {"x": 1, "w": 2}):
            for cls in (ours, theirs):
                with pytest.raises(TypeError):
                    cls(**refuse)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_frozen_and_hashable_as_the_standard_one_is(form: dict[str, bool]) -> None:
    for ours, theirs in zip(*classes(form), strict=True):
        outcomes = []
        for cls in (ours, theirs):
            made, tried = cls(x=1, tags=()), []
            for attempt in (
                lambda made=made: setattr(made, "x", 3),
                lambda made=made: delattr(made, "x"),
                lambda made=made: hash(made) and None,
                lambda cls=cls: repr(cls(1)) and None,
            ):
                try:
                    tried.append(attempt())
                except Exception as error:  # noqa: BLE001 - what is raised is what is compared
                    tried.append(type(error))
            outcomes.append(tried)
        assert outcomes[0] == outcomes[1]


@dataclass(frozen=True, slots=True)
class Kept:
    """At module level, so that it can be pickled."""

    x: int
    y: tuple[int, ...] = ()


def test_pickles() -> None:
    assert pickle.loads(pickle.dumps(Kept(1, (2,)))) == Kept(1, (2,))
    assert hash(Kept(1)) == hash(Kept(1)) != hash(Kept(2))
