"""DeepSeek-V3.2 with an index in two stages, counted at 128K."""

from __future__ import annotations

import pytest

import archc
from archc.resolve import load_text
from archc.resources import specs

LAYERS, HEADS, CHANNELS, CONTEXT = 61, 64, 128, 1 << 17


def test_decoding_scores_blocks_and_what_is_in_the_chosen() -> None:
    """1,022 keys of blocks and 8,192 tokens instead of 131,072; what is around the search stays as it is."""
    text = (specs() / "deepseek_v3_2.arch").read_text(encoding="utf-8")
    assert text.count("indexer = lightning {") == 1
    staged = load_text(text.replace("indexer = lightning {", "indexer = two_stage {"))[0]
    reports = [archc.cost(m, mode="decode", context=CONTEXT) for m in (archc.load("deepseek_v3_2"), staged)]
    assert reports[0].params == reports[1].params
    for kind, width in (("ideal", CHANNELS), ("executed", CHANNELS + 1)):
        parts = [getattr(report.flops, kind).by_component for report in reports]
        one = 2 * LAYERS * HEADS * width
        assert parts[0]["indexer"] - parts[1]["indexer"] == one * (CONTEXT - 1022 - 64 * 128)
        assert {**parts[0], "indexer": 0} == {**parts[1], "indexer": 0}
    flat, few = (2 * LAYERS * HEADS * CHANNELS * pairs for pairs in (CONTEXT, 1022 + 64 * 128))
    assert flat / few == pytest.approx(14.2, abs=0.03)
    # One key more for every 128 tokens
    more = reports[1].kv_cache.bytes_total - reports[0].kv_cache.bytes_total
    assert more == LAYERS * CONTEXT // 128 * CHANNELS * 2
