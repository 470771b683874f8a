"""What a spec may say about a field, read from the drawer's schema."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from archc.schema import Compress, Drawer, Norm, field
from archc.schema.describe import SchemaError, describe


class Sample(Norm):
    """One field of every form."""

    width: int = field("how wide", unit="channels", gt=0, multiple_of=2)
    share: float = field("how much", ge=0, lt=1, default=0.5)
    flag: bool = field("whether", default=False)
    note: str = field("a remark", default="")
    mode: Literal["a", "b"] | None = field("which", default=None)
    count: int | Literal["auto"] = field("how many", default="auto")
    sizes: list[int] = field("several", default=[1])
    pair: tuple[float, ...] | None = field("some", default=None)
    part: Compress | None = field("a part", default=None)
    parts: list[Compress] = field("parts", default=[])
    dim: int = field("inherited", inherit="dim")
    inner: Norm = field("by kind", kind="rms")
    half: int = field("computed", default_factory=lambda f: f["width"] // 2)


@pytest.mark.parametrize(
    ("name", "type_text", "domain", "required"),
    [
        ("width", "int", "> 0, multiple of 2", True),
        ("share", "float", ">= 0, < 1", False),
        ("flag", "bool", "", False),
        ("note", "str", "", False),
        ("mode", "a | b or none", "", False),
        ("count", "int | auto", "", False),
        ("sizes", "list of int", "", False),
        ("pair", "list of float or none", "", False),
        ("part", "compress drawer or none", "", False),
        ("parts", "list of compress drawer", "", False),
        ("dim", "int", "", False),
        ("inner", "norm drawer", "", False),
        ("half", "int", "", False),
    ],
)
def test_fields(name: str, type_text: str, domain: str, required: bool) -> None:
    info = describe(Sample)[name]
    assert (info.type_text, info.domain_text, info.required) == (type_text, domain, required)


def test_what_a_field_carries() -> None:
    infos = describe(Sample)
    assert list(infos) == list(Sample.model_fields)
    assert (infos["width"].doc, infos["width"].unit) == ("how wide", "channels")
    assert (infos["dim"].inherit, infos["inner"].kind, infos["half"].computed) == ("dim", "rms", True)
    assert (infos["share"].has_default, infos["share"].default, infos["width"].has_default) == (True, 0.5, False)
    assert infos["mode"].words == ("a", "b")


def test_what_a_value_must_be() -> None:
    infos = describe(Sample)
    wanted = {n: infos[n].wanted for n in ("width", "mode", "count", "part", "sizes")}
    assert wanted == {
        "width": "a whole number",
        "mode": "one of a, b",
        "count": "a whole number or one of auto",
        "part": "a compress drawer",
        "sizes": "a list, each item a whole number",
    }


@pytest.mark.parametrize("annotation", [dict[str, int], int | str, bytes, list[Any], tuple[int, str]])
def test_types_that_the_language_does_not_have(annotation: Any) -> None:
    cls = type("Odd", (Drawer,), {"__annotations__": {"x": annotation}, "__module__": __name__})
    with pytest.raises(SchemaError, match=r"Odd\.x"):
        describe(cls)
