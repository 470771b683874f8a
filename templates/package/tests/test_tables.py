"""Large tables: wherever they lie, the model is the same."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ..runtime.optimizers import optimizers
from ..runtime.weights import load_weights
from .tiny_model import Model
from .twin import COLUMNS, logits, randomise, tokens, twin

AWAY = ("host", "disk")


def placed(memory: Any, seed: int = 1) -> Model:
    """A twin with random weights whose tables lie there."""
    model = Model(dtype=torch.float64, memory=memory)
    randomise(model, seed)
    return model


def whole(grad: Tensor | None) -> Tensor | None:
    return grad.to_dense() if grad is not None and grad.is_sparse else grad


@pytest.mark.parametrize("memory", AWAY)
@pytest.mark.parametrize("ahead", [True, False])
def test_logits_and_gradients_are_those_of_tables_on_the_device(memory: str, ahead: bool) -> None:
    """Bit for bit, read ahead or not; gradients are of rows that were read."""
    models, ids = (placed("device"), placed(memory)), tokens(3, COLUMNS, seed=60)
    found = []
    for model in models:
        model.reads_ahead = ahead
        out = model(ids, labels=ids)
        out.loss.backward()
        found.append([out.logits, *(whole(p.grad) for p in model.parameters())])
    for got, want in zip(*reversed(found), strict=True):
        assert (got is None and want is None) or torch.equal(got, want)
    for table in models[1].tables.values():
        assert table.weight.grad is not None
        assert table.weight.grad.is_sparse


@pytest.mark.parametrize("memory", AWAY)
def test_decoding_is_one_forward(memory: str) -> None:
    model, ids = placed(memory).eval(), tokens(2, 24, seed=61)
    with torch.no_grad():
        cache = model.new_cache(2, 24)
        parts = [model(chunk, cache=cache).logits for chunk in ids.split([9, 1, 1, 12, 1], 1)]
    assert torch.allclose(torch.cat(parts, 1), logits(twin(), ids), atol=1e-9)


@pytest.mark.parametrize("memory", AWAY)
def test_a_step_moves_the_rows_that_were_read(memory: str) -> None:
    """By as much as on the device."""
    models, ids = (placed("device"), placed(memory)), tokens(2, 24, seed=62)
    for model in models:
        before = [table.weight.detach().clone() for table in model.tables.values()]
        for optimizer in optimizers(model, lr=1e-2):
            model.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
        for table, old in zip(model.tables.values(), before, strict=True):
            moved = (table.weight != old).any(1)
            assert table.weight.grad is not None
            assert moved.any()
            assert torch.isin(moved.nonzero()[:, 0], table.weight.grad.coalesce().indices()[0]).all()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("memory", ["device", *AWAY])
def test_tables_are_swapped_and_no_file_ever_changes(memory: str, tmp_path: Path) -> None:
    own, other, ids = placed(memory), placed("device", seed=2), tokens(2, 24, seed=63)
    other.save_memory(tmp_path / "other.safetensors")
    own.save_weights(tmp_path / "own.safetensors")
    files = sorted(tmp_path.iterdir())
    before = [sha256(file.read_bytes()).digest() for file in files]
    model = Model(device="meta", dtype=torch.float64, memory=memory)
    load_weights(model, tmp_path / "own.safetensors", device="cpu")
    assert torch.equal(logits(model, ids), logits(own, ids))
    model.swap_memory(tmp_path / "other.safetensors")
    for name, table in own.tables.items():
        table.load_state_dict(other.tables[name].state_dict())
    assert torch.equal(logits(model, ids), logits(own, ids))
    for optimizer in optimizers(model, lr=1e-2):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    assert [sha256(file.read_bytes()).digest() for file in files] == before
