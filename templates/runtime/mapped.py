"""Tensors whose memory is a file on disk: the kernel reads what is touched, and writes it back when it needs room."""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import torch
from torch import Tensor

CHUNK = 1 << 22
"""Elements that are copied at a time."""
_SCATTERED: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""Mappings that are read here and there, by where their tensors begin."""


def view(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, bool]:
    """A tensor [*shape] of the numbers that begin at byte `offset` of a file, which stays as it is, and True.

    What is written to the tensor is kept in memory. Where a limit leaves no room for that, a copy on disk, and False.
    """
    page = offset - offset % mmap.ALLOCATIONGRANULARITY
    size = math.prod(shape) * dtype.itemsize
    with path.open("rb") as file:
        try:
            held = mmap.mmap(file.fileno(), offset - page + size, access=mmap.ACCESS_COPY, offset=page)
        except OSError:
            with _unnamed(path.parent) as target:
                os.truncate(target.fileno(), size)
                _copy(file.fileno(), offset, size, target.fileno())
                held = mmap.mmap(target.fileno(), size, access=mmap.ACCESS_WRITE)
            return _scattered(held, 0, shape, dtype), False
    return _scattered(held, offset - page, shape, dtype), True


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
    with _in_order(source), _in_order(target):
        for new, old in zip(target.split(pieces), source.split(pieces), strict=True):
            if old.any():
                new.copy_(old)
    return target


def announce(tensor: Tensor, rows: Tensor) -> None:
    """Has the disk look for these rows [N] of a tensor all at once; touched one by one, each would be waited for."""
    held = _SCATTERED.get(tensor.data_ptr())
    if held is None or not len(rows):
        return
    width, page = tensor.stride(0) * tensor.element_size(), mmap.PAGESIZE
    first = tensor.data_ptr() % page + rows * width
    wanted = torch.cat([first, first + width - 1]) // page
    if width > page:  # and what lies between
        wanted = torch.cat([wanted, *(first // page + i for i in range(1, (width - 1) // page + 1))])
    for i in wanted.unique().tolist():
        held.madvise(mmap.MADV_WILLNEED, i * page, 1)


@contextmanager
def _in_order(tensor: Tensor) -> Iterator[None]:
    """The memory of a tensor is gone through from its beginning to its end, if that is a file."""
    held = _SCATTERED.get(tensor.data_ptr())
    if held is not None:
        held.madvise(mmap.MADV_SEQUENTIAL)
    yield
    if held is not None:
        held.madvise(mmap.MADV_RANDOM)


def _copy(source: int, offset: int, size: int, target: int) -> None:
    """Copies bytes of one open file to the beginning of another, new one; holes stay holes."""
    at, end = offset, offset + size
    while at < end:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        stop = min(end, os.lseek(source, at, os.SEEK_HOLE))
        while at < stop:
            piece = os.pread(source, min(CHUNK, stop - at), at)
            if not piece:
                raise OSError(errno.EIO, "the file ends before the tensor in it does")
            os.pwrite(target, piece, at - offset)
            at += len(piece)


def _unnamed(folder: Path | None) -> IO[bytes]:
    """An open file that no folder lists."""
    given = os.environ.get("ARCHC_SCRATCH")
    writable = folder if folder is not None and os.access(folder, os.W_OK | os.X_OK) else None
    return tempfile.TemporaryFile(dir=given or writable)


def _scattered(held: mmap.mmap, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor over a mapping whose rows are read one here, one there: reading on would be in vain."""
    tensor = _tensor(held, offset, shape, dtype)
    if hasattr(mmap, "MADV_RANDOM"):
        held.madvise(mmap.MADV_RANDOM)
        _SCATTERED[tensor.data_ptr()] = held
    return tensor


def _tensor(held: mmap.mmap, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor over a mapping, which lives as long as it."""
    count = math.prod(shape)
    return torch.frombuffer(held, dtype=dtype, count=count, offset=offset).view(shape) if count else torch.empty(shape)
