"""The boundary of mHC as a function with kernels, made by hand of a row program and its equations in PyTorch."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from archc.emit.kernels import CARRIED, HEADER, cpp, kernels, table
from kernels import fused
from tests.rows.boundary import boundary, reference

N, WIDTH, ROUNDS = 2, 24, 3
GIVES = ("mixed", "h", "post_next", "comb_next")


def composed(streams: Tensor, y: Tensor, post: Tensor, comb: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
    """The boundary of tensors [B, S, ...], what leaves in the activations' dtype rounded to it."""
    flat = [x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32)) for x in (streams, y, post, comb)]
    made = reference(*flat, *params, rounds=ROUNDS)
    dtypes = [streams.dtype, streams.dtype, post.dtype, comb.dtype]
    return tuple(made[n].unflatten(0, streams.shape[:2]).to(d) for n, d in zip(GIVES, dtypes, strict=True))


@cache
def function(name: str = "boundary") -> fused.Fused:
    """The function; its C++ lies in a folder that goes with the process, what is compiled of it in a cache."""
    program = boundary(N, WIDTH, ROUNDS)._replace(name=name)
    made = kernels(program, list(program.takes), 2, {})
    folder = tempfile.TemporaryDirectory(prefix="archc-fused-")
    _FOLDERS.append(folder)
    path = Path(folder.name) / f"{name}.py"
    path.with_suffix(".cpp").write_text(cpp(made) or "")
    (path.parent / HEADER).write_text(CARRIED)
    names = {"Fused": fused.Fused, "act": fused.act, "fp32": fused.fp32, "Path": Path, "reference": composed}
    names["__file__"] = str(path)
    exec("\n".join(table(made, native=True, launchers=[])), names)
    return names["KERNELS"]


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def operands(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Takes for tokens of a shape, with gradients wanted; float64 has that in all."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for array in function().layout.takes:
        lead = () if array.once else shape
        x = torch.randn((*lead, *array.dims), generator=generator, dtype=torch.float64)
        x = x / (N * WIDTH) ** 0.5 if len(array.dims) == 3 else x
        out.append(x.to(dtype if dtype == torch.float64 else array.dtype(dtype)).requires_grad_())
    return out


def cache_folder() -> str:
    """Where tests keep what they compile, so that the next run finds it."""
    return str(Path(tempfile.gettempdir()) / f"archc-tests-{os.getuid()}")
