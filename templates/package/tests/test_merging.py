"""Tokens that are merged: a table of them is taken whole or not at all, and is part of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..runtime.merging import set_merged_ids
from ..runtime.weights import load_weights
from .tiny_model import Model
from .twin import COLUMNS, fresh, logits, randomise, tokens

COUNTS = {(len(fresh().get_buffer(name)), *numbers) for name, numbers in Model.merges.items()}

alike = pytest.mark.skipif(len(COUNTS) > 1, reason="memories merge tokens differently")


def table(seed: int) -> tuple[Tensor, int]:
    """Ids of all tokens, each id of one token at least, and a token that has the id of the padding."""
    size, count, pad = min(COUNTS)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.cat([torch.arange(count), torch.randint(count, (size - count,), generator=generator)])
    ids = ids[torch.randperm(size, generator=generator)]
    return ids, int((ids == pad).nonzero()[0])


def held(model: Model) -> list[Tensor]:
    return [model.get_buffer(name).clone() for name in model.merges]


@alike
def test_a_table_of_merged_ids_is_kept_with_the_weights(tmp_path: Path) -> None:
    model = fresh(dtype=torch.float64)
    randomise(model)
    ids, pad = table(seed=70)
    set_merged_ids(model, ids, pad=pad)
    assert all(torch.equal(buffer, ids) for buffer in held(model))
    model.save_weights(tmp_path / "merged.safetensors")
    other = fresh(seed=1, dtype=torch.float64)
    load_weights(other, tmp_path / "merged.safetensors")
    batch = tokens(2, COLUMNS, seed=71)
    assert torch.equal(logits(other, batch), logits(model, batch))


@alike
@pytest.mark.parametrize("ending", ["npy", "safetensors", "json"])
def test_merged_ids_come_from_files(ending: str, tmp_path: Path) -> None:
    ids, pad = table(seed=72)
    file = tmp_path / f"ids.{ending}"
    if ending == "npy":
        numpy = pytest.importorskip("numpy")
        numpy.save(file, ids.to(torch.int32).numpy())
    elif ending == "safetensors":
        save_file({"ids": ids}, file)
    else:
        file.write_text(json.dumps(ids.tolist()))
    model = fresh()
    set_merged_ids(model, file, pad=pad)
    assert all(torch.equal(buffer, ids) for buffer in held(model))


@alike
def test_tables_that_do_not_fit_change_nothing() -> None:
    model, (ids, pad), (_, count, _) = fresh(), table(seed=73), min(COUNTS)
    before = held(model)
    negative, beyond = ids.clone(), ids.clone()
    negative[0], beyond[0] = -1, count
    wrong = {
        "whole numbers": [ids.double(), ids[None], ids > 0],
        "tokens, and": [ids[1:], torch.cat([ids, ids[:1]])],
        "count from 0": [negative],
        "build the model from a spec with ids": [beyond],
    }
    for said, tables in wrong.items():
        for one in tables:
            with pytest.raises(ValueError, match=said):
                set_merged_ids(model, one, pad=pad)
    with pytest.raises(ValueError, match="is no token"):
        set_merged_ids(model, ids, pad=len(ids))
    for token in (ids != ids[pad]).nonzero()[:1]:
        with pytest.raises(ValueError, match=f"and pad = {ids[token].item()}$"):
            set_merged_ids(model, ids, pad=int(token))
    with pytest.raises(ValueError, match="meta device"):
        set_merged_ids(Model(device="meta"), ids, pad=pad)
    assert all(torch.equal(new, old) for new, old in zip(held(model), before, strict=True))
