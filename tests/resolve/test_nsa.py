"""Native sparse attention: rules between its fields, what is doubtful, and twins."""

from __future__ import annotations

from typing import Any

import pytest

from archc.plan import shrink
from tests.resolve.support import FFN, one, only, spec

SIZES = {
    "heads": "4",
    "kv_heads": "2",
    "head_dim": "16",
    "compress_block": "32",
    "stride": "16",
    "select_block": "64",
    "blocks": "4",
    "window": "8",
}


def nsa(**given: str) -> str:
    fields = "\n".join(f"{name} = {value}" for name, value in (SIZES | given).items())
    return spec(f"attention = nsa {{\n{fields}\n}}\n{FFN}")


def attention(**given: str) -> Any:
    return one(nsa(**given)).schedule[0].attention


@pytest.mark.parametrize(
    ("given", "code", "place", "message"),
    [
        ({"kv_heads": "3"}, "E0210", "3", "kv_heads = 3 does not divide heads = 4"),
        ({"compress_block": "40"}, "E0210", "16", "stride = 16 does not divide compress_block = 40"),
        ({"select_block": "72"}, "E0210", "16", "stride = 16 does not divide select_block = 72"),
        (
            {"compress_block": "128"},
            "E0210",
            "128",
            "an entry of compress_block = 128 tokens is longer than select_block = 64",
        ),
        ({"blocks": "2"}, "E0210", "2", "blocks = 2 leaves no room for initial + local = 1 + 2"),
        ({"local": "0"}, "E0204", "0", "`local` must be greater than 0, got 0"),
        ({"window": "0"}, "E0204", "0", "`window` must be greater than 0, got 0"),
        ({"stride": "0"}, "E0204", "0", "`stride` must be greater than 0, got 0"),
        ({"mapping": "even"}, "E0205", "even", "`mapping` is one of overlap, minus, plus, not `even`"),
    ],
)
def test_rules(given: dict[str, str], code: str, place: str, message: str) -> None:
    """Reported at the value that was written."""
    problem = only(nsa(**given))
    assert (problem.code, problem.message) == (code, message)
    assert problem.span is not None
    assert problem.span.text == place


def test_blocks_that_cover_the_context_are_doubtful() -> None:
    doubt = only(nsa(blocks="16"))
    assert (doubt.code, doubt.severity) == ("W0005", "warning")
    assert doubt.message == "a token attends to 16 blocks of 64 tokens, but at context = 1024 there are 16"
    assert doubt.span is not None
    assert doubt.span.text == "16"


def test_what_is_left_out() -> None:
    """Sizes of the paper; values as wide as keys."""
    d = (
        one(spec(f"attention = nsa {{ heads = 4, kv_heads = 2, head_dim = 16, blocks = 8 }}\n{FFN}"))
        .schedule[0]
        .attention
    )
    assert (d.compress_block, d.stride, d.select_block, d.initial, d.local, d.window) == (32, 16, 64, 1, 2, 512)
    assert (d.v_dim, d.mapping, d.gates, d.scale) == (16, "overlap", "head", 0.25)


@pytest.mark.parametrize("given", [{}, {"stride": "32"}, {"stride": "1"}, {"select_block": "32"}, {"blocks": "3"}])
def test_a_twin_keeps_what_overlaps_and_what_is_forced(given: dict[str, str]) -> None:
    whole, twin = attention(**given), shrink(one(nsa(**given))).schedule[0].attention
    assert (twin.initial, twin.local, twin.mapping) == (whole.initial, whole.local, whole.mapping)
    assert (twin.compress_block > twin.stride) == (whole.compress_block > whole.stride)
    assert (twin.select_block > twin.stride) == (whole.select_block > whole.stride)
    assert (twin.blocks > twin.initial + twin.local) == (whole.blocks > whole.initial + whole.local)
    assert twin.blocks * twin.select_block < 64, "64 tokens leave some block out"
    assert twin.heads // twin.kv_heads == min(2, whole.heads // whole.kv_heads)
