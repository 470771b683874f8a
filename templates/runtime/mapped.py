"""Tensors whose memory is a file on disk: the kernel reads what is touched, and writes it back when it needs room."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import warnings
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

CHUNK = 1 << 24
"""Elements that are copied at a time."""


def view(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor [*shape] of the numbers that begin at byte `offset` of a file, which stays as it is.

    What is written to the tensor is kept in memory. Where a limit leaves no room for that, a copy on disk.
    """
    page = offset - offset % mmap.ALLOCATIONGRANULARITY
    size = offset - page + math.prod(shape) * dtype.itemsize
    with path.open("rb") as file:
        try:
            held = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=page)
        except OSError:
            held = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=page)
            with warnings.catch_warnings():  # that it cannot be written: it is only read, once
                warnings.simplefilter("ignore", UserWarning)
                source = _tensor(held, offset - page, shape, dtype)
            return fill(scratch(shape, dtype, path.parent), source)
    return _scattered(held, offset - page, shape, dtype)


def scratch(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None = None) -> Tensor:
    """Zeros [*shape] in a file without a name, which is gone with the tensor; only what is written takes room on disk.

    It lies in ARCHC_SCRATCH, else in `folder` if that can be written to, else where temporary files do.
    """
    size = max(1, math.prod(shape) * dtype.itemsize)
    with _unnamed(folder) as file:
        os.truncate(file.fileno(), size)
        held = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_WRITE)
    return _scattered(held, 0, shape, dtype)


def fill(target: Tensor, source: Tensor) -> Tensor:
    """Copies a tensor into another, a piece at a time; zeros are not written over the zeros of a new file."""
    pieces = max(1, CHUNK // max(1, math.prod(source.shape[1:])))
    for new, old in zip(target.split(pieces), source.split(pieces), strict=True):
        if old.any():
            new.copy_(old)
    return target


def _unnamed(folder: Path | None) -> IO[bytes]:
    """An open file that no folder lists."""
    for place in (os.environ.get("ARCHC_SCRATCH"), folder, None):
        if place is not None and os.access(place, os.W_OK | os.X_OK):
            return tempfile.TemporaryFile(dir=place)
    return tempfile.TemporaryFile()


def _scattered(held: mmap.mmap, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor over a mapping whose rows are read one here, one there: reading on would be in vain."""
    if hasattr(mmap, "MADV_RANDOM"):
        held.madvise(mmap.MADV_RANDOM)
    return _tensor(held, offset, shape, dtype)


def _tensor(held: mmap.mmap, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor over a mapping, which lives as long as it."""
    count = math.prod(shape)
    return torch.frombuffer(held, dtype=dtype, count=count, offset=offset).view(shape) if count else torch.empty(shape)
