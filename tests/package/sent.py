"""What each process of a sharded step sends: `python -m tests.package.sent PACKAGES RANK WAYS FILE`.

Process 0 writes, of every package in a folder, the bytes that it sends in all-gathers and in reduce-scatters of one
forward and backward, to FILE.json. Started by test_fsdp.py.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

from tests.built import imported
from tests.package.sharded import batch, model_of

KINDS = {"_allgather_base_": "all_gather", "_reduce_scatter_base_": "reduce_scatter"}


class Sent(TorchDispatchMode):
    """Adds up what a ring sends: of n parts all but one, which is what both tensors of a collective differ by."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = dict.fromkeys(KINDS.values(), 0)

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(function)
        if name.startswith("c10d."):
            self.bytes[KINDS[name.split(".")[1]]] += abs(args[0].nbytes - args[1].nbytes)
        return function(*args, **(kwargs or {}))


def main(folder: str, rank: int, ways: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ways)
    mesh, found = init_device_mesh("cpu", (ways,)), {}
    for path in sorted(p for p in Path(folder).iterdir() if (p / "plan.json").is_file()):
        package = imported(path)
        model = model_of(package)
        importlib.import_module(f"{package.__name__}.parallelize").apply_fsdp(model, mesh)
        ids = batch(model, rank, 0)
        with Sent() as sent:
            model(ids, labels=ids).loss.backward()
        found[path.name] = sent.bytes
    if rank == 0:
        Path(f"{file}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
