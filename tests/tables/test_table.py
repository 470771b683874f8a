"""One table: rows, gradients, and the memory that holds them, wherever that is."""

from __future__ import annotations

import json
import os
import pickle
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.tables.conftest import PLACEMENTS

ROWS, DIM = 23, 3
AWAY = ("host", "disk")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)

ids = st.builds(
    lambda shape, seed, most: torch.randint(most, shape, generator=torch.Generator().manual_seed(seed)),
    st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
    st.integers(0, 1 << 20),
    st.sampled_from((1, 3, ROWS)),  # of few different ids, all repeat
)


def make(runtime: Any, placement: str, dtype: torch.dtype = torch.float32) -> Any:
    with runtime("modules").building(None, dtype):
        return runtime("tables").LargeTable(ROWS, DIM, placement=placement)


def bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(torch.uint8)


def pulled(rows: Tensor, seed: int) -> Tensor:
    """A loss with a different gradient for every number of rows [*, DIM]."""
    pull = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)).to(rows.dtype)
    return (rows * pull).sum()


@pytest.mark.parametrize("placement", PLACEMENTS)
@given(ids=st.lists(ids, min_size=1, max_size=3), dtype=st.sampled_from(DTYPES), sparse=st.booleans())
def test_rows_and_gradients_are_those_of_an_embedding(
    runtime: Any, placement: str, ids: list[Tensor], dtype: torch.dtype, sparse: bool
) -> None:
    """Bit for bit, repeated ids, no ids and several backward passes included."""
    table = make(runtime, placement, dtype)
    table.sparse |= sparse
    whole = table.weight.detach().clone().requires_grad_()
    for i, some in enumerate(ids):
        rows, want = table(some), F.embedding(some, whole)
        assert torch.equal(bits(rows), bits(want))
        pulled(rows, i).backward()
        pulled(want, i).backward()
    grad = table.weight.grad
    assert grad.is_sparse == table.sparse
    if table.sparse:
        touched = torch.cat([some.flatten() for some in ids]).unique()
        assert torch.equal(grad.coalesce().indices()[0], touched)
        grad = grad.to_dense()
    assert whole.grad is not None and torch.equal(grad, whole.grad)


def test_a_graph_may_be_run_backward_twice(runtime: Any) -> None:
    table, some = make(runtime, "host"), torch.tensor([[3, 3, 1]])
    loss = pulled(table(some), 0)
    loss.backward(retain_graph=True)
    once = table.weight.grad.to_dense()
    loss.backward()
    assert torch.equal(table.weight.grad.to_dense(), 2 * once)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_seed_gives_the_same_numbers_everywhere(runtime: Any, placement: str) -> None:
    found = []
    for where in ("device", placement):
        torch.manual_seed(3)
        found.append(make(runtime, where).weight)
    assert torch.equal(*found) and found[0].any()


def test_the_specification_may_be_overridden(runtime: Any) -> None:
    tables = runtime("tables")
    with tables.placing("host"):
        assert make(runtime, "disk").placement == "host"
    with tables.placing(None):
        assert make(runtime, "disk").placement == "disk"
    with (
        pytest.raises(ValueError, match="memory is 'device', 'host', 'disk' or None, not 'gpu'"),
        tables.placing("gpu"),
    ):
        pass


@pytest.mark.parametrize("placement", AWAY)
class TestMemory:
    """Of tables that are not on the device."""

    def test_conversions(self, runtime: Any, placement: str) -> None:
        table = make(runtime, placement)
        before, weight = table.weight.detach().clone(), table.weight
        table(torch.tensor([1, 1])).sum().backward()
        assert table.to("cpu").weight.data_ptr() == weight.data_ptr()
        table.double()
        assert table.weight is weight and torch.equal(table.weight, before.double())
        assert torch.equal(table.weight.grad.to_dense()[1], torch.full((DIM,), 2.0, dtype=torch.float64))
        assert torch.equal(table.bfloat16().weight, before.bfloat16())

    def test_the_meta_device(self, runtime: Any, placement: str) -> None:
        with runtime("modules").building("meta", torch.float32):
            table = runtime("tables").LargeTable(ROWS, DIM, placement=placement)
        assert table.weight.is_meta
        table.to_empty(device="cpu")
        table.reset_parameters()
        assert table(torch.arange(ROWS)).std() > 0.01
        assert table.to("meta").weight.is_meta

    @pytest.mark.parametrize("again", [deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
    def test_copies_are_independent(self, runtime: Any, placement: str, again: Any) -> None:
        table = make(runtime, placement)
        copy = again(table)
        assert torch.equal(copy.weight, table.weight) and (copy.placement, copy.sparse) == (placement, True)
        with torch.no_grad():
            copy.weight.zero_()
        assert table.weight.all() and copy.weight.data_ptr() != table.weight.data_ptr()
        copy.register_forward_hook(lambda *_: None)
        assert not table._forward_hooks

    @pytest.mark.parametrize("assign", [False, True])
    def test_state_dicts(self, runtime: Any, placement: str, assign: bool) -> None:
        table, other = make(runtime, placement), make(runtime, "device")
        memory = table.weight.data_ptr()
        table.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(table.weight, other.weight) and table.weight.data_ptr() == memory
        with runtime("modules").building("meta", torch.float32):
            empty = runtime("tables").LargeTable(ROWS, DIM, placement=placement)
        empty.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(empty.weight, other.weight) and empty.weight.data_ptr() != other.weight.data_ptr()


# --- files ---------------------------------------------------------------------------------------
def loaded(runtime: Any, path: Path, table: Any) -> Any:
    """The table with the weight of a file."""
    with runtime("checkpoint").Checkpoint(path) as checkpoint:
        source = runtime("formats").stored(checkpoint.headers, checkpoint.block)["table"]
        memory, folder, viewed = table.prepared(source, checkpoint)
        table.hold(memory, folder, viewed=viewed)
    return table


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file whose last tensor is a table; an odd number of bytes stands before it, as other writers may have it."""
    numbers = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(5)).numpy().tobytes()
    header = {
        "before": {"dtype": "U8", "shape": [7], "data_offsets": [0, 7]},
        "table": {"dtype": "F32", "shape": [ROWS, DIM], "data_offsets": [7, 7 + len(numbers)]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "file.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(7) + numbers)
    return path


def _by_direct_write(table: Any, runtime: Any) -> None:
    with torch.no_grad():
        table.weight.mul_(2)


def _by_gradient(table: Any, runtime: Any) -> None:
    table(torch.arange(4)).sum().backward()
    torch.optim.SGD([table.weight], lr=1.0).step()


def _by_adam(table: Any, runtime: Any) -> None:
    table(torch.arange(4)).sum().backward()
    runtime("optimizers").TableAdam([table]).step()


def _by_state_dict(table: Any, runtime: Any) -> None:
    table.load_state_dict({"weight": torch.ones(ROWS, DIM)})


@pytest.mark.parametrize("write", [_by_direct_write, _by_gradient, _by_adam, _by_state_dict])
def test_a_checkpoint_never_changes(runtime: Any, file: Path, write: Any) -> None:
    before = sha256(file.read_bytes()).digest()
    table = loaded(runtime, file, make(runtime, "disk"))
    numbers = table.weight.detach().clone()
    write(table, runtime)
    assert not torch.equal(table.weight, numbers)
    del table
    assert sha256(file.read_bytes()).digest() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]  # what is written has no name


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_files_of_any_dtype(runtime: Any, file: Path, placement: str, dtype: torch.dtype) -> None:
    want = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(5)).to(dtype)
    assert torch.equal(loaded(runtime, file, make(runtime, placement, dtype)).weight, want)


def test_reading_does_not_copy_a_file(runtime: Any, file: Path) -> None:
    """Gradients do: what is written then goes to disk, not to memory."""
    table = loaded(runtime, file, make(runtime, "disk"))
    with file.open("r+b") as raw:  # a change of the file is seen
        raw.seek(-4, os.SEEK_END)
        raw.write(torch.tensor([77.0]).numpy().tobytes())
    some = torch.tensor([ROWS - 1])
    assert table(some)[0, -1] == 77
    table(some).sum().backward()
    with file.open("r+b") as raw:
        raw.seek(-4, os.SEEK_END)
        raw.write(torch.tensor([78.0]).numpy().tobytes())
    assert table(some)[0, -1] == 77


def test_a_frozen_table_stays_the_file(runtime: Any, file: Path) -> None:
    table = loaded(runtime, file, make(runtime, "disk")).requires_grad_(False)
    before = table.weight.data_ptr()
    rows = table(torch.tensor([1]))
    assert not rows.requires_grad and table.weight.data_ptr() == before


def test_where_copies_lie(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder that is asked for, else beside the file, else where temporary files do."""
    mapped, seen = runtime("mapped"), []
    real = mapped.tempfile.TemporaryFile
    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", lambda **given: seen.append(given["dir"]) or real(**given))
    mapped.scratch((2, 3), torch.float32, tmp_path)
    mapped.scratch((2, 3), torch.float32, tmp_path / "absent")
    monkeypatch.setenv("ARCHC_SCRATCH", str(tmp_path))
    mapped.scratch((2, 3), torch.float32, Path("/"))
    assert seen == [tmp_path, None, str(tmp_path)]
    monkeypatch.setenv("ARCHC_SCRATCH", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="absent"):
        mapped.scratch((2, 3), torch.float32, tmp_path)


@pytest.mark.parametrize("limited", [False, True])
def test_a_view_keeps_what_is_written_to_itself(
    runtime: Any, file: Path, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    """Where memory for that is refused, it goes to disk."""
    mapped = runtime("mapped")
    if limited:
        real = mapped.mmap.mmap

        def refused(*args: Any, **given: Any) -> Any:
            if given["access"] == mapped.mmap.ACCESS_COPY:
                raise OSError(12, "Cannot allocate memory")
            return real(*args, **given)

        monkeypatch.setattr(mapped.mmap, "mmap", refused)
    before = file.read_bytes()
    offset = len(before) - ROWS * DIM * 4
    view, viewed = mapped.view(file, offset, (ROWS, DIM), torch.float32)
    assert viewed != limited
    assert torch.equal(view, torch.frombuffer(bytearray(before[offset:]), dtype=torch.float32).view(ROWS, DIM))
    view.fill_(3)
    assert bool((view == 3).all()) and file.read_bytes() == before


@pytest.mark.parametrize("width", [3, 1000, 5000])
def test_every_page_of_a_row_is_announced(
    runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """And no other; the last row ends with the file."""
    mapped, rows = runtime("mapped"), 40
    path, before, page = tmp_path / "numbers", 4100, 4096
    numbers = torch.randn(rows, width, generator=torch.Generator().manual_seed(2))
    path.write_bytes(bytes(before) + numbers.numpy().tobytes())
    view, _ = mapped.view(path, before, (rows, width), torch.float32)
    told: list[int] = []

    class Watched:
        def madvise(self, option: int, start: int, length: int) -> None:
            assert option == mapped.mmap.MADV_WILLNEED
            assert length <= page
            told.append(start)

    watched = Watched()
    monkeypatch.setitem(mapped._SCATTERED, view.data_ptr(), watched)
    ids = torch.tensor([7, 0, rows - 1, 7])
    mapped.announce(view, ids)
    start = before // page * page  # of the mapping in the file
    bytes_of = [(before - start + 4 * width * i, before - start + 4 * width * (i + 1)) for i in set(ids.tolist())]
    assert sorted(told) == sorted({p * page for a, b in bytes_of for p in range(a // page, (b - 1) // page + 1)})
    monkeypatch.undo()
    mapped.announce(view, ids)  # the kernel takes it
    assert torch.equal(view, numbers)


def test_zeros_take_no_room(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a gibibyte of zeros with one row written, and a copy of it, take a few megabytes of disk."""
    mapped = runtime("mapped")
    monkeypatch.setenv("ARCHC_SCRATCH", str(tmp_path))
    files = []
    real = mapped._unnamed
    monkeypatch.setattr(mapped, "_unnamed", lambda folder: files.append(real(folder)) or files[-1])
    duplicates = []
    monkeypatch.setattr(os, "truncate", lambda fd, size, of=os.ftruncate: (duplicates.append(os.dup(fd)), of(fd, size)))
    first = mapped.scratch((1 << 20, 64), torch.float32)
    first[12345] = 1
    second = mapped.fill(mapped.scratch((1 << 20, 64), torch.float32), first)
    assert second[12345].all() and second.sum() == 64
    taken = [os.fstat(fd).st_blocks * 512 for fd in duplicates]
    for fd in duplicates:
        os.close(fd)
    assert len(taken) == 2 and max(taken) < 1 << 25
