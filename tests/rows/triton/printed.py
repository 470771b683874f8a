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
from archc.rows.kernel import Kernel, optimised
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


def call(printed: Printed, *takes: Tensor, processors: int | None = None) -> tuple[Tensor, ...]:
    """What the launcher gives, on a GPU of so many processors; unless told, of few."""
    made: Any = module(printed)
    if processors is not None:
        made.processors = lambda _: processors
    return getattr(made, printed.launcher)(*takes)


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


def arrays(kernel: Kernel, tokens: int, act: torch.dtype) -> dict[str, Tensor]:
    """Arrays for the takes that hold anything: to see what is launched with them."""
    act_of = {n: act if kernel.format(n) == "act" else torch.float32 for n in kernel.takes}
    return {n: torch.empty(shape(kernel, v, tokens), dtype=act_of[n]) for n, v in kernel.takes.items()}


def exact(
    kernel: Kernel, takes: dict[str, Tensor], act: torch.dtype, made: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What the program gives in float64, values that it rounds to ``act`` rounded.

    Of ``made``, what was given elsewhere, gives that are rounded are taken as they are where they are one rounding from
    the program's: what is made of them may be compared then.
    """
    kernel = optimised(kernel)
    rounded = {v.id: n for n, v in kernel.gives.items() if isinstance(v.rule, Round)}

    def rounds(old: Row, new: Row) -> Row:
        if type(new.rule) is not Round:
            return new
        near = (made or {}).get(rounded.get(old.id, ""))
        return new.program.make(_Rounded(format="act", act=act, near=_Same(near)), *new.args)

    arrays = {}
    for name, v in kernel.takes.items():
        x = takes[name].double().numpy()
        if not v.token:
            x = x[None]
        elif isinstance(v.rule, Input) and v.rule.shared > 1:
            x = np.repeat(x, v.rule.shared, 0)
        arrays[name] = x if v.row else x[..., None]
    found = run(rebuilt(list(kernel.gives.values()), rounds), arrays)
    gives = {n: torch.tensor(x if v.row else x[..., 0]) for (n, v), x in zip(kernel.gives.items(), found, strict=True)}
    tokens = max(len(x) for x in arrays.values())
    return {n: x.expand(tokens, *x.shape[1:]) if kernel.gives[n].token else x[0] for n, x in gives.items()}


class _Same:
    """A tensor that is equal to itself alone, as values of programs must be."""

    def __init__(self, tensor: Tensor | None) -> None:
        self.tensor = tensor


class _Rounded(Round):
    """A rounding that the interpreter of rows does."""

    act: torch.dtype
    near: _Same

    def value(self, x: Any) -> Any:
        value = torch.tensor(x).to(self.act).double()
        if self.near.tensor is not None:
            near = self.near.tensor.double().reshape(value.shape)
            step = torch.finfo(self.act).eps * value.abs() + 1e-6 * value.abs().max()
            value = torch.where((near - value).abs() <= step, near, value)
        return value.numpy()
