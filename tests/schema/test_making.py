"""`make` is the class itself, faster: equal drawers, equal refusals."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError, field_validator

from archc.drawers import drawer_class
from archc.schema import Drawer, Norm, field
from archc.schema.making import _plain, make

RMS, LAYER = drawer_class("norm", "rms"), drawer_class("norm", "layer")


class Every(Drawer):
    """One field of each form."""

    whole: int = field("a number", gt=0, multiple_of=2)
    part: float = field("a number", default=0.5, ge=0, lt=1)
    flag: bool = field("a truth value", default=False)
    word: Literal["a", "b"] | None = field("a word", default=None)
    text: str = field("a text", default="")
    norm: Norm = field("a slot", default_factory=lambda f: RMS())
    one: RMS | None = field("a slot for one kind", default=None)  # pyright: ignore[reportInvalidTypeForm]
    twice: int = field("follows", default_factory=lambda f: 2 * f["whole"])
    sizes: tuple[int, ...] = field("a list", default=())


class Guarded(Every):
    """Has a rule that only pydantic knows."""

    @field_validator("whole")
    @classmethod
    def _small(cls, value: int) -> int:
        if value > 100:
            raise ValueError("too large")
        return value


values = st.one_of(
    st.none(),
    st.integers(-4, 300),
    st.floats(allow_nan=True),
    st.booleans(),
    st.sampled_from(["a", "b", "c", ""]),
    st.builds(RMS),
    st.builds(LAYER),
    st.lists(st.integers(-2, 2), max_size=2),
)


def outcome(build: Any) -> Any:
    """What a construction gives, in a form that compares; types count."""
    try:
        made = build()
    except ValidationError as error:
        return [(d["type"], d["loc"]) for d in error.errors()]
    except Exception as error:  # noqa: BLE001 - a default raises what it likes
        return type(error)
    return {k: (type(v), repr(v)) for k, v in made.__dict__.items()}, made.label, made.model_fields_set


@pytest.mark.parametrize("cls", [Every, Guarded])
@settings(max_examples=400, deadline=None)
@given(given_fields=st.dictionaries(st.sampled_from([*Every.model_fields, "unknown"]), values, max_size=4))
def test_making_is_constructing(cls: type[Drawer], given_fields: dict[str, Any]) -> None:
    assert outcome(lambda: make(cls, given_fields)) == outcome(lambda: cls(**given_fields))


@pytest.mark.parametrize("cls", [Every, Guarded])
@given(whole=st.integers(-2, 200), part=st.floats(-0.5, 1.5), kind=st.sampled_from([RMS, LAYER]))
def test_values_of_the_right_types_keep_their_limits(cls: type[Drawer], whole: int, part: float, kind: Any) -> None:
    fields = {"whole": whole, "part": part, "norm": kind(), "one": kind()}
    assert outcome(lambda: make(cls, fields)) == outcome(lambda: cls(**fields))


def test_a_plain_class_needs_no_validator() -> None:
    class Fresh(Drawer):
        """Never built by pydantic."""

        whole: int = field("a number", gt=0)

    assert make(Fresh, {"whole": 3}).whole == 3  # type: ignore[attr-defined]
    assert not Fresh.__pydantic_complete__
    assert _plain(Guarded) is None
