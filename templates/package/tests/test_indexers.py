"""What indexers learn, and when: their loss and its stages, on the tiny twin of this package."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from .test_properties import batches, law
from .twin import COLUMNS, TINY, assert_same, fresh, logits, randomise, tokens


@law
@given(data=st.data())
def test_the_index_loss_is_the_mean_over_rows_wherever_their_padding_stands(data: st.DataObject) -> None:
    """Of rows as long as each other: as many of their tokens attend to an entry."""
    model, ids = fresh(dtype=torch.float64), data.draw(batches())
    randomise(model)
    model.index_stage = data.draw(st.sampled_from(("sparse", "dense")))
    more = data.draw(st.integers(0, 9))
    at = data.draw(st.integers(0, more))
    padded, mask = (F.pad(t, (at, more - at)) for t in (ids, torch.ones_like(ids)))
    with torch.no_grad():
        whole = model(ids, labels=ids).losses.get("index")
        again = model(padded, labels=padded, attention_mask=mask).losses.get("index")
        alone = [model(row[None], labels=row[None]).losses.get("index") for row in ids]
    if whole is None:  # of indexers without a weight
        assert again is None
        assert "index" not in {loss["name"] for loss in TINY["losses"]}
        return
    assert float(whole) == pytest.approx(sum(map(float, alone)) / len(ids), rel=1e-8, abs=1e-9)
    assert float(again) == pytest.approx(float(whole), rel=1e-8, abs=1e-9)


def test_indexers_learn_by_their_own_loss_and_nothing_else_does() -> None:
    own = {p["name"] for p in TINY["parameters"] if p["component"] == "indexer"}
    ids = tokens(3, COLUMNS, seed=22)
    found = {}
    for stage in ("off", "sparse"):
        model = fresh(dtype=torch.float64)
        randomise(model)
        model.index_stage = stage
        model(ids, labels=ids).loss.backward()
        found[stage] = {name: p.grad for name, p in model.named_parameters()}
    assert all(found["off"][name] is None for name in own)
    for name, gradient in found["off"].items():
        if gradient is not None:
            assert torch.equal(gradient, found["sparse"][name]), name


def test_a_stage_changes_what_attention_runs_over_only_where_it_teaches() -> None:
    model, ids = fresh(dtype=torch.float64), tokens(2, COLUMNS, seed=23)
    randomise(model)
    want = logits(model, ids)
    for stage in ("off", "sparse", "dense"):
        model.index_stage = stage
        assert_same(logits(model, ids), want)
        assert_same(logits(model, ids, cache=model.new_cache(2, COLUMNS), labels=ids), want)
        if stage != "dense":
            assert_same(logits(model, ids, labels=ids), want)
    assert not torch.allclose(logits(model, ids, labels=ids), want), "a twin picks fewer entries than it sees"
    with pytest.raises(ValueError, match="index_stage"):
        model.index_stage = "warm"  # type: ignore[assignment]
