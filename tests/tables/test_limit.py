"""A table larger than the memory that a process may have trains and decodes from disk, and only from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import archc
from tests.built import imported
from tests.tables.conftest import SPEC

MEGABYTES = 900
"""What a process may allocate."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A package with one table of more than 2 GB, and its weights: a table of zeros, which takes no room on disk."""
    folder = tmp_path_factory.mktemp("large")
    text = SPEC.read_text().replace("at [0, 3]", "at [2]").replace("model tabled", "model large")
    (folder / "large.arch").write_text(text.replace("head_dim = 6, rows = 40", "head_dim = 64, rows = 2e6"))
    path = archc.build(archc.load(folder / "large.arch"), folder / "built")
    model = imported(path).Model(device="meta")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("table.weight")}
    ((table, shape),) = ((n, t.shape) for n, t in model.state_dict().items() if n not in tensors)
    header, at, numbers = {}, 0, b""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        data = torch.randn(tensor.shape, generator=generator) * tensor.shape[-1] ** -0.5
        header[name] = {"dtype": "F32", "shape": list(data.shape), "data_offsets": [at, at + 4 * data.numel()]}
        at, numbers = at + 4 * data.numel(), numbers + data.numpy().tobytes()
    header[table] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + 4 * shape.numel()]}
    start = json.dumps(header).encode()
    weights = folder / "weights.safetensors"
    weights.write_bytes(len(start).to_bytes(8, "little") + start + numbers)
    os.truncate(weights, 8 + len(start) + at + 4 * shape.numel())
    return path, weights


def run(large: tuple[Path, Path], placement: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("limited.py")
    command = [sys.executable, script, *large, placement, str(MEGABYTES)]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are those of Linux")
def test_from_disk(large: tuple[Path, Path]) -> None:
    before = large[1].stat()
    done = run(large, "disk")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] > 2 * (MEGABYTES << 20)
    assert found["losses"] == sorted(set(found["losses"]), reverse=True)
    read, unused = 2 * 24 * 4, 2 * 4  # the last tokens of rows predict nothing
    assert read - unused <= found["moved"] <= found["touched"] <= read
    assert found["others"] == 0
    assert found["apart"] < 1e-4 and found["generated"] == [2, 16]
    after = large[1].stat()
    assert (after.st_mtime_ns, after.st_blocks) == (before.st_mtime_ns, before.st_blocks)


@pytest.mark.parametrize("placement", ["device", pytest.param("host", marks=pytest.mark.slow)])
def test_from_memory_it_dies_of_the_limit(large: tuple[Path, Path], placement: str) -> None:
    done = run(large, placement)
    assert done.returncode != 0
    assert "can't allocate memory" in done.stderr
