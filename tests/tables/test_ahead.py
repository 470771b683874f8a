"""Rows are read by a thread while the layers before them run, and nothing depends on it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tables.test_models import IDS, TABLES

AWAY = ("host", "disk")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[int, bool]]]:
    """Notes of each reading of a table: which, and whether the caller's thread did it."""

    def watch(model: Any) -> list[tuple[int, bool]]:
        notes: list[tuple[int, bool]] = []
        for i, table in enumerate(model.tables.values()):

            def read(ids: torch.Tensor, i: int = i, own: Any = table.read) -> torch.Tensor:
                notes.append((i, threading.current_thread() is threading.main_thread()))
                return own(ids)

            monkeypatch.setattr(table, "read", read)
        return notes

    return watch


def slowed(model: Any, table: float, layer: float) -> None:
    """Makes reading the last table, and each layer before it starts, take so many seconds."""
    last = model.tables[TABLES[1]]
    own = last.read

    def read(ids: torch.Tensor) -> torch.Tensor:
        sleep(table)
        return own(ids)

    last.read = read
    for part in model.model.layers:
        part.register_forward_pre_hook(lambda *_: sleep(layer))


@torch.no_grad()
def seconds(model: Any) -> float:
    start = perf_counter()
    model(IDS)
    return perf_counter() - start


@pytest.mark.parametrize("placement", AWAY)
def test_reading_overlaps_with_layers(models: dict[str, Any], placement: str) -> None:
    """Reading for 0.6 s and four layers of 0.2 s, the last of which looks up: 0.8 s together, 1.4 s in a row."""
    model = models[placement]
    seconds(model)
    slowed(model, table=0.6, layer=0.2)
    model.reads_ahead = False
    alone = seconds(model)
    model.reads_ahead = True
    together = seconds(model)
    assert alone > 1.4
    assert 0.8 < together < 1.2


@pytest.mark.parametrize("placement", AWAY)
def test_every_forward_reads_ahead(models: dict[str, Any], watched: Any, placement: str) -> None:
    """Whole, cached, in the backward pass of what runs again; each table once, in the order of layers."""
    model = models[placement]
    notes = watched(model)
    once = [(0, False), (1, False)]
    with torch.no_grad():
        model(IDS)
        assert notes == once
        notes.clear()
        model.generate(IDS[:, :5], 3)
        assert notes == once * 3
    notes.clear()
    model.recompute = "full"
    model(IDS, labels=IDS).loss.backward()
    assert notes[:2] == once and sorted(notes[2:]) == [(0, True), (1, True)]
    notes.clear()
    model.recompute, model.reads_ahead = "none", False
    model(IDS)
    assert notes == [(0, True), (1, True)]


def test_tables_on_the_device_need_no_thread(models: dict[str, Any], watched: Any) -> None:
    notes = watched(models["device"])
    models["device"](IDS)
    assert not notes


@given(chunks=st.lists(st.integers(1, 8), min_size=2, max_size=5), announced=st.booleans())
def test_the_next_chunk_may_be_announced(held: dict[str, Any], chunks: list[int], announced: bool) -> None:
    """Its rows are read while this chunk runs: once, by a thread. The result is that of one forward."""
    model, notes = held["disk"], []
    own = [table.read for table in model.tables.values()]
    for i, table in enumerate(model.tables.values()):
        table.read = lambda ids, i=i: (
            notes.append((i, tuple(ids.shape), threading.current_thread() is threading.main_thread())) or own[i](ids)
        )
    with torch.no_grad():
        cache = model.new_cache(2, 64)
        parts = IDS[:, : sum(chunks)].split(chunks, 1)
        found = []
        for chunk, following in zip(parts, (*parts[1:], None), strict=True):
            if announced and following is not None:
                model.prefetch(following, after=chunk, cache=cache)
            found.append(model(chunk, cache=cache).logits)
        for table in model.tables.values():
            del table.read
        torch.testing.assert_close(torch.cat(found, 1), model(IDS[:, : sum(chunks)]).logits)
    assert sorted(notes) == sorted((i, (2, part.shape[1], 4), False) for part in parts for i in range(2))


def test_what_is_announced_in_vain_does_no_harm(models: dict[str, Any]) -> None:
    model = models["host"]
    want = models["device"](IDS).logits
    for _ in range(5):
        model.prefetch(IDS.flip(0))
    assert all(len(table._readings) <= 2 for table in model.tables.values())
    assert torch.equal(model(IDS).logits, want)
    mask = torch.ones_like(IDS).index_fill(1, torch.tensor([3]), 0)
    model.prefetch(IDS, attention_mask=mask)
    assert torch.equal(model(IDS).logits, want)
    with pytest.raises(ValueError, match="rows without padding"):
        model.prefetch(IDS, after=IDS, attention_mask=mask)


@pytest.mark.parametrize("placement", AWAY)
def test_what_was_read_before_a_change_is_not_used(models: dict[str, Any], placement: str) -> None:
    """Of the weight, in place or by an optimizer, or by loading."""

    def in_place(model: Any) -> None:
        for table in model.tables.values():
            table.weight.mul_(-1)

    def loading(model: Any) -> None:
        model.load_state_dict({name: -value for name, value in model.state_dict().items()})

    for change in (in_place, loading):
        with torch.no_grad():
            for model in (models["device"], models[placement]):
                model.prefetch(IDS)
                change(model)
            assert torch.equal(models[placement](IDS).logits, models["device"](IDS).logits)


@pytest.mark.parametrize("placement", AWAY)
def test_errors_of_the_thread_surface(models: dict[str, Any], placement: str) -> None:
    model = models[placement]
    want = model(IDS).logits
    last = model.tables[TABLES[1]]

    def fails(ids: torch.Tensor) -> torch.Tensor:
        raise OSError(5, "Input/output error of a thread")

    last.read = fails
    with pytest.raises(OSError, match="Input/output error of a thread"):
        model(IDS)
    del last.read
    assert torch.equal(model(IDS).logits, want)


def test_a_forward_that_fails_leaves_nothing_behind(models: dict[str, Any]) -> None:
    model = models["disk"]
    want = model(IDS).logits
    fault = model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    for _ in range(4):
        with pytest.raises(ZeroDivisionError):
            model(IDS)
    assert all(len(table._readings) <= 2 for table in model.tables.values())
    fault.remove()
    assert torch.equal(model(IDS).logits, want)


@pytest.mark.parametrize("placement", AWAY)
def test_threads_may_share_a_model(models: dict[str, Any], placement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one asks what would be looked up another looks up; of equal ids only one takes what was read."""
    model = models[placement]
    batches = [IDS, IDS.flip(1), IDS[:, :7]]
    with torch.no_grad():
        want = [models["device"](ids).logits for ids in batches]
    wrong: list[object] = []

    def run(first: int) -> None:
        try:
            for i in range(first, first + 30):
                with torch.no_grad():
                    if not torch.equal(model(batches[i % 3]).logits, want[i % 3]):
                        wrong.append(i)
        except BaseException as error:  # noqa: BLE001 - threads lose what they raise
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(first,)) for first in (0, 0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@pytest.mark.parametrize("placement", AWAY)
def test_rows_that_were_read_are_given_to_one(models: dict[str, Any], placement: str) -> None:
    """Two lookups of the same ids get tensors of their own: each is a node of another graph."""
    table = models[placement].tables[TABLES[0]]
    ids = torch.tensor([1, 2])
    reading = table.expect(ids)
    reading.run()
    table._readings = [reading, reading]  # as both of two threads find it
    assert table.rows(ids).data_ptr() != table.rows(ids).data_ptr()


@pytest.mark.parametrize("placement", AWAY)
def test_a_model_made_in_inference_mode(package: Any, models: dict[str, Any], placement: str, tmp_path: Path) -> None:
    """Its changes are not counted, so nothing is read ahead; it runs all the same."""
    models["device"].save_weights(tmp_path)
    with torch.inference_mode():
        model = package.Model(device="meta", dtype=torch.float64, memory=placement)
        package.load_weights(model, tmp_path, device="cpu")
        assert torch.equal(model(IDS).logits, models["device"](IDS).logits)
        for table in model.tables.values():
            table.weight.mul_(-1)
        loaded = {name: value for name, value in model.state_dict().items() if name.endswith("table.weight")}
        models["device"].load_state_dict(loaded, strict=False)
        assert torch.equal(model(IDS).logits, models["device"](IDS).logits)
