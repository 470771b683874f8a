"""Bytes of kernels against counts by hand: what a row of D bfloat16 channels costs, added up on paper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.rows.kernel import Kernel, optimised, trained
from archc.rows.rules import Input, Param, RowSum, Rsqrt, Sigmoid, TokenSum, add, mul, product
from archc.rows.traffic import bound, passes, requested
from archc.rows.value import Program, Row
from tests.rows.boundary import boundary

D = 4096
FN = 4 * 24 * 4 * D
"""Bytes of the projection of mHC: [24, 4, D] in float32."""
SMALL = 4 * (24 + 3) + 2 * D
"""Its base and scale in float32, and a norm's weight in bfloat16."""


def normed(p: Program, x: Row, width: int) -> Row:
    letters = "k" * bool(x.streams)
    squares = p.make(RowSum(), product(f"{letters},{letters}->{letters}", x, x))
    return product(f"{letters},{letters}->{letters}", x, p.make(Rsqrt(), add(mul(squares, 1 / width), 1e-6)))


def add_norm(width: int = D) -> Kernel:
    p = Program()
    x, y = (p.make(Input(name=name, row=True, format="act")) for name in ("x", "y"))
    weight = p.make(Param(name="weight", row=True, format="act"))
    total = add(x, y)
    gives = {"total": total, "h": mul(normed(p, total, width), weight)}
    return Kernel("add_norm", width, {"x": x, "y": y, "weight": weight}, gives, {"total": "act", "h": "act"})


def gate(n: int = 4, width: int = D) -> Kernel:
    """Engram's gate: normed streams times normed keys, and with it the value into the streams."""
    p = Program()
    streams, keys = (p.make(Input(name=name, streams=(n,), row=True, format="act")) for name in ("streams", "keys"))
    value = p.make(Input(name="value", row=True, format="act"))
    near = p.make(RowSum(), product("k,k->k", normed(p, streams, width), normed(p, keys, width)))
    opened = p.make(Sigmoid(), mul(near, width**-0.5))
    out = add(streams, product("k,->k", opened, value))
    return Kernel("gate", width, {"streams": streams, "keys": keys, "value": value}, {"out": out}, {"out": "act"})


@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_bounds_by_hand(tokens: int) -> None:
    # Four streams and a row come, four streams and a row go; twice [4] and [4, 4] in float32.
    assert bound(boundary(4, D), tokens) == tokens * (20 * D + 160) + FN + SMALL
    assert bound(add_norm(), tokens) == tokens * 8 * D + 2 * D
    assert bound(gate(), tokens) == tokens * 26 * D
    assert bound(gate(), tokens, act=4) == tokens * 52 * D


@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_bounds_of_training_by_hand(tokens: int) -> None:
    forward, backward = trained(boundary(4, D), list(boundary(4, D).takes))
    # What 24 projections, a sum of squares and 16 products of streams need more.
    assert bound(forward, tokens) == bound(boundary(4, D), tokens) + tokens * 4 * (24 + 1 + 16)
    # Streams, a row and their gradients, and the gradients of both gives; of numbers 20 with 20 gradients, 20 gradients
    # of the next ones and 41 saved. Parameters are read, and their gradients written, that of the norm in float32, too.
    assert bound(backward, tokens) == tokens * (30 * D + 4 * (20 + 20 + 20 + 41)) + 2 * (FN + SMALL) + 2 * D


def test_what_two_passes_ask_for() -> None:
    """Mixing reads ten rows and writes eight, collapsing reads these eight and writes two: 28 D of 20 D."""
    kernel = optimised(boundary(4, D))
    assert passes(kernel) == 2
    assert requested(kernel, 64) == bound(kernel, 64) + 64 * 8 * D
    assert requested(kernel, 4096) == bound(kernel, 4096) + 4096 * 8 * D + 63 * (FN + SMALL)
    # 1.40 for the rows and 0.30 for the projection, as counted of a printed kernel
    assert requested(kernel, 4096) / bound(kernel, 4096) == pytest.approx(1.70, abs=0.01)


def test_rows_on_the_chip_are_read_once() -> None:
    kernel = add_norm()
    assert passes(kernel) == 2
    assert requested(kernel, 64) == bound(kernel, 64)
    # Else the sum, which the first pass stored, is read back.
    assert requested(kernel, 64, held=False) == bound(kernel, 64) + 64 * 2 * D
    # Sums of squares (16), the sum of products (16), then the gate (8 + 2, and 8 written); or both sums in one pass.
    assert requested(gate(), 64, held=False) == 64 * (16 + 16 + 10 + 8) * D
    assert requested(optimised(gate()), 64, held=False) == 64 * (16 + 10 + 8) * D


def test_without_rows_there_are_no_passes() -> None:
    p = Program()
    x = p.make(Input(name="x", streams=(3,)))
    kernel = Kernel("numbers", 1, {"x": x}, {"y": p.make(Sigmoid(), x), "s": p.make(TokenSum(), x)}, {})
    assert passes(kernel) == 0
    assert bound(kernel, 10) == requested(kernel, 10) == 10 * 24 + 12


def test_what_tokens_share_is_read_once_for_them() -> None:
    p = Program()
    x, turns = p.make(Input(name="x", row=True, format="fp8")), p.make(Input(name="turns", streams=(2,), shared=8))
    kernel = Kernel("shared", 64, {"x": x, "turns": turns}, {"y": mul(x, 2.0)}, {"y": "bf16"})
    assert bound(kernel, 16) == 16 * (64 + 128) + 2 * 8


@given(n=st.integers(1, 8), width=st.integers(1, 64), tokens=st.integers(1, 300), tile=st.integers(1, 64))
def test_asked_for_is_never_less_than_must_move(n: int, width: int, tokens: int, tile: int) -> None:
    for kernel in (boundary(n, width), optimised(boundary(n, width)), add_norm(width), gate(n, width)):
        assert bound(kernel, tokens) <= requested(kernel, tokens, tile=tile)
        assert requested(kernel, tokens, tile=tile) <= requested(kernel, tokens, tile=tile, held=False)
