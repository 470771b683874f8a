"""The figures of docs/residual.md come from a run: a few are measured again."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from bench import residual

PAGE = residual.FIGURES.parent / "residual.md"


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return json.loads((residual.FIGURES / "residual.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("form", residual.EPS)
def test_sums_and_norms(form: str, spread: float, data: dict[str, Any]) -> None:
    """To a few roundings of float32, of which the smallest distances consist."""
    at = data["spreads"].index(spread)
    assert residual.sums(form, spread) == pytest.approx(data["sums"][form][at], rel=1e-2, abs=3e-7)
    assert residual.norms(form, spread) == pytest.approx(data["norms"][form][at], rel=1e-5)


@pytest.mark.parametrize("name", ["x + F(x)", "mHC, form v4, logits 0.5", "HC, scale 0.1"])
def test_a_stack(name: str, data: dict[str, Any]) -> None:
    found, shown = residual.depth(**residual.STACKS[name]), data["stacks"][name]
    assert found.forward == pytest.approx(shown["forward"], rel=1e-4)
    assert found.backward == pytest.approx(shown["backward"], rel=1e-4)
    for got, kept in zip(found.gains, shown["gains"], strict=True):
        assert got == pytest.approx(tuple(kept), rel=1e-4)


@pytest.mark.parametrize("kind", residual.KINDS)
def test_costs(kind: str, data: dict[str, Any]) -> None:
    assert residual.costs(kind) == pytest.approx(data["costs"][kind], rel=1e-5)


def test_the_page_has_the_tables(data: dict[str, Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in residual.tables(data):
        assert table in page


def test_the_picture_is_drawn(data: dict[str, Any], tmp_path: Any) -> None:
    """As large as the one that is shown."""
    pytest.importorskip("matplotlib")
    residual.draw(data, tmp_path / "residual.png")
    drawn, shown = (path.read_bytes() for path in (tmp_path / "residual.png", residual.FIGURES / "residual.png"))
    assert struct.unpack(">II", drawn[16:24]) == struct.unpack(">II", shown[16:24])
