"""Hash constants of the public Engram recipes: DeepSeek-V4.1-Flash's released table sizes and multipliers, the
paper's sizes."""

from __future__ import annotations

import pytest

from tests.oracles.engram import multipliers, table_sizes


def test_multipliers_of_v41_flash() -> None:
    """With a compressed vocabulary of 99,092 tokens, on layers 1 and 14 (counted from zero)."""
    assert multipliers(1, 99092, 4) == [76632096046245, 4839876093313, 35959672319349, 73987337458391]
    assert multipliers(14, 99092, 4) == [67716810739261, 51510806800915, 30921347202721, 82619226485591]


@pytest.mark.parametrize(
    ("start", "orders", "rows"),
    [
        (16_000_000, 3, [384_006_168, 384_016_682]),  # V4.1-Flash: num_embeddings of its two layers
        (2_262_400, 2, [36_199_972, 36_204_260]),  # Engram-27B
        (7_239_680, 2, [115_837_464, 115_841_428]),  # Engram-40B
    ],
)
def test_table_sizes(start: int, orders: int, rows: list[int]) -> None:
    sizes = table_sizes(start, layers=2, orders=orders, heads=8)
    assert [sum(s) for s in sizes] == rows
    flat = [n for s in sizes for n in s]
    assert flat == sorted(set(flat))


def test_first_primes_of_v41_flash() -> None:
    assert table_sizes(16_000_000, 1, 1, 3) == [[16000057, 16000079, 16000081]]


def test_products_stay_in_int64() -> None:
    for layer in (1, 14):
        assert all(99091 * m < 2**63 for m in multipliers(layer, 99092, 4))
