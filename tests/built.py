"""Packages of models, built and imported the way a user would."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import torch

from archc.api import Fuse, package
from archc.emit.package import write
from archc.schema import Model

torch.set_num_threads(1)
_COUNT = itertools.count()


def built(model: Model, folder: Path, *, rotated: bool = False, fuse: Fuse = "none") -> ModuleType:
    """The package of a model, written to `folder / <name>` and imported under a name of its own."""
    path = write(package(model, rotated=rotated, fuse=fuse), folder / model.name)
    return imported(path)


def imported(path: Path) -> ModuleType:
    """A written package as a module under a name that no other has."""
    name = f"{path.name}_{next(_COUNT)}"
    spec = importlib.util.spec_from_file_location(name, path / "__init__.py", submodule_search_locations=[str(path)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Gives every parameter a value that matters: norms 1 + 0.3 z, biases 0.3 z, matrices z / sqrt(fan in).

    Buffers that a checkpoint holds, the biases of routers, get 0.3 z too; tables of experts get different ones, other
    ids stay.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if p.dim() == 1:
            p.copy_(1 + 0.3 * noise if "norm" in name else 0.3 * noise)
        else:
            p.copy_(noise / p.shape[-1] ** 0.5)
    held = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):
            experts = model.get_submodule(name.rpartition(".")[0]).get_parameter("weight").shape[0]
            buffer.copy_(torch.rand(len(buffer), experts, generator=generator).argsort()[:, : buffer.shape[1]])
        elif name in held and buffer.is_floating_point():
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
