"""Printed kernels as modules, and what they give in the interpreter beside what their program gives."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archc.rows.interpret import run
from archc.rows.kernel import Kernel
from archc.rows.rewrite import rebuilt
from archc.rows.rules import Input, Round
from archc.rows.triton import Printed
from archc.rows.value import Row


@functools.lru_cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="rows_"))


def module(printed: Printed) -> ModuleType:
    """The text of printed kernels as a module of Python; Triton reads its source from a file."""
    needed = sorted(printed.needs - {"torch", "Tensor"})
    text = "\n".join(
        (
            "import torch",
            "from torch import Tensor",
            f"from kernels.library import {', '.join(needed)}",
            "",
            printed.text,
        )
    )
    name = f"rows_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path = folder() / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def call(printed: Printed, *takes: Tensor) -> tuple[Tensor, ...]:
    """What the launcher gives."""
    return getattr(module(printed), printed.launcher)(*takes)


def shape(kernel: Kernel, v: Row, tokens: int) -> tuple[int, ...]:
    """The shape of an array in memory."""
    shared = v.rule.shared if isinstance(v.rule, Input) else 1
    return (*((tokens // shared,) if v.token else ()), *v.streams, *((kernel.width,) if v.row else ()))


def drawn(kernel: Kernel, tokens: int, act: torch.dtype, **scales: float) -> dict[str, Tensor]:
    """Arrays of random numbers for the takes, of a size of 1 or what ``scales`` say."""
    generator = torch.Generator().manual_seed(tokens)
    made = {}
    for name, v in kernel.takes.items():
        x = torch.randn(shape(kernel, v, tokens), generator=generator) * scales.get(name, 1.0)
        made[name] = x.to(act if kernel.format(name) == "act" else torch.float32)
    return made


def exact(kernel: Kernel, takes: dict[str, Tensor], act: torch.dtype) -> dict[str, Tensor]:
    """What the program gives in float64, values that it rounds to ``act`` rounded."""

    def rounds(_: Row, new: Row) -> Row:
        return new.program.make(_Rounded(format="act", act=str(act)), *new.args) if type(new.rule) is Round else new

    arrays = {}
    for name, v in kernel.takes.items():
        x = takes[name].double().numpy()
        if not v.token:
            x = x[None]
        elif isinstance(v.rule, Input) and v.rule.shared > 1:
            x = np.repeat(x, v.rule.shared, 0)
        arrays[name] = x if v.row else x[..., None]
    made = run(rebuilt(list(kernel.gives.values()), rounds), arrays)
    return {n: torch.tensor(x if v.row else x[..., 0]) for (n, v), x in zip(kernel.gives.items(), made, strict=True)}


class _Rounded(Round):
    """A rounding that the interpreter of rows does."""

    act: str

    def value(self, x: Any) -> Any:
        dtype = getattr(torch, self.act.removeprefix("torch."))
        return torch.tensor(x).to(dtype).double().numpy()
