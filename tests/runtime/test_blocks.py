"""Query blocks cover what attention sees, stay within the limit, and are counted without being listed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc import resources
from archc.graph.torch_package import torch_package

torch_package()
from archc_package.kernels.blocks import LIMIT, query_blocks, scored_pairs  # noqa: E402

workloads = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 4),
        "heads": st.integers(1, 6),
        "new": st.integers(1, 60),
        "past": st.integers(0, 60),
        "window": st.none() | st.integers(1, 90),
        "materialise": st.booleans(),
        "ragged": st.booleans(),
        "limit": st.integers(1, 4000),
    }
).map(lambda w: {"keys": w["new"] + w["past"], **{k: v for k, v in w.items() if k != "past"}})


@given(workloads)
@settings(max_examples=300, deadline=None)
def test_every_visible_pair_is_in_exactly_one_block(w: dict[str, Any]) -> None:
    blocks = query_blocks(**w)
    rows = [row for start, stop, _, _ in blocks for row in range(start, stop)]
    assert rows == list(range(w["new"]))
    past = w["keys"] - w["new"]
    for start, stop, low, high in blocks:
        oldest = 0 if w["window"] is None else max(0, past + start - w["window"] + 1)
        assert (low, high) == (oldest, past + stop)


@given(workloads)
@settings(max_examples=300, deadline=None)
def test_pairs_are_counted_without_listing_blocks(w: dict[str, Any]) -> None:
    assert scored_pairs(**w) == sum((stop - start) * (high - low) for start, stop, low, high in query_blocks(**w))


@given(workloads)
@settings(max_examples=300, deadline=None)
def test_what_a_block_stores_stays_within_the_limit(w: dict[str, Any]) -> None:
    blocks = query_blocks(**w)
    plain = w["keys"] == w["new"] and (w["window"] is None or w["window"] >= w["new"])
    if plain and not w["materialise"] and not w["ragged"]:
        assert blocks == [(0, w["new"], 0, w["keys"])]  # nothing is stored, so nothing is cut
        return
    copies = w["batch"] * (w["heads"] if w["materialise"] else 1)
    for start, stop, low, high in blocks:
        assert stop - start == 1 or copies * (stop - start) * (high - low) <= w["limit"]


def test_windows_are_bands_whose_work_is_linear() -> None:
    at = {n: scored_pairs(batch=1, heads=8, new=n, keys=n, window=128) for n in (1 << 14, 1 << 15)}
    assert at[1 << 15] < 2.01 * at[1 << 14]
    assert at[1 << 15] < 2 * 128 * (1 << 15)


def test_long_context_is_counted_at_once() -> None:
    """A million tokens in batches of 64 are a million one-row blocks, and no list of them is made."""
    n = 1 << 20
    pairs = scored_pairs(batch=64, heads=1, new=n, keys=n, ragged=True)
    assert pairs == n * (n + 1) // 2
    assert LIMIT * 4 == 64 * 2**20


@pytest.mark.parametrize("name", ["torch", "triton", "numpy"])
def test_the_block_schedule_imports_nothing_heavy(name: str) -> None:
    path = str(resources.kernels() / "blocks.py")
    code = f"import runpy, sys; runpy.run_path({path!r}); assert {name!r} not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
