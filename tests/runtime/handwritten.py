"""What the tests of the run time share: the hand-written model at any size, and the package it imports from."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from archc.graph.torch_package import torch_package

torch.set_num_threads(1)
SOURCE = Path(__file__).with_name("handwritten_llama.py")
_COUNT = itertools.count()


def llama(**sizes: Any) -> ModuleType:
    """The hand-written model as a module of the package, with constants replaced (`HEADS=4, LAYERS="full window"`)."""
    text = SOURCE.read_text()
    for name, value in sizes.items():
        line = re.search(rf"^(.*\b{name}\b.*) = (.*)$", text, re.MULTILINE)
        assert line is not None, name
        names, values = line[1].split(", "), line[2].split(", ")
        values[names.index(name)] = repr(value)
        text = text.replace(line[0], f"{', '.join(names)} = {', '.join(values)}", 1)
    package = torch_package()
    module = ModuleType(f"{package.__name__}.llama_{next(_COUNT)}")
    module.__package__ = package.__name__
    sys.modules[module.__name__] = module
    exec(compile(text, str(SOURCE), "exec"), module.__dict__)
    return module


def randomized(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with weights large enough that every part of it matters to the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(1 + 0.3 * noise)
            else:
                p.copy_(noise if p.dim() == 1 else noise / p.shape[-1] ** 0.5)
    return model
