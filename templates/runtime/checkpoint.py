"""Safetensors files as one checkpoint: which files, what is in them, reading one tensor or one row of it, writing."""

from __future__ import annotations

import json
import math
import mmap
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
"""What safetensors calls the dtypes that can be read."""


class Header(NamedTuple):
    """What a file says about a tensor before it is read."""

    dtype: str  # as safetensors writes it: "BF16", "F8_E4M3"
    shape: tuple[int, ...]


class File:
    """A safetensors file, memory-mapped: 8 bytes that say how long the header is, the header in JSON, the numbers.

    The mapping is shared and read-only, so that a limit on a process's own memory does not count it; nothing may write
    to the tensors it gives. ValueError for a file that is none, or is cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._start = 8 + int.from_bytes(file.read(8), "little")
            if size < 8 or self._start > size:
                raise ValueError(f"{path} is not a whole safetensors file: its header is cut short")
            try:
                header: dict[str, Any] = json.loads(file.read(self._start - 8))
                header.pop("__metadata__", None)
                self.headers = {name: Header(of["dtype"], tuple(of["shape"])) for name, of in header.items()}
                self._spans: dict[str, tuple[int, int]] = {
                    name: tuple(of["data_offsets"]) for name, of in header.items()
                }
            except (ValueError, AttributeError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is not a whole safetensors file: its header cannot be read") from error
            end = self._start + max((stop for _, stop in self._spans.values()), default=0)
            if size != end:
                raise ValueError(
                    f"{path} is not a whole safetensors file: {size:,} bytes, where the header says {end:,}"
                )
            for name, (dtype, shape) in self.headers.items():
                begin, stop = self._spans[name]
                if dtype in DTYPES and stop - begin != math.prod(shape) * DTYPES[dtype].itemsize:
                    what = f"{stop - begin:,} bytes of {name}, {dtype} {list(shape)}"
                    raise ValueError(f"{path} is not a whole safetensors file: it has {what}")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def offset(self, name: str) -> int:
        """Where in the file the numbers of a tensor begin."""
        return self._start + self._spans[name][0]

    def tensor(self, name: str, row: int | None = None) -> Tensor:
        """One tensor backed by the file, or one row of it."""
        dtype = DTYPES[self.headers[name].dtype]
        shape = self.headers[name].shape if row is None else self.headers[name].shape[1:]
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        at = self.offset(name) + (0 if row is None else row * count * dtype.itemsize)
        with warnings.catch_warnings():  # that it cannot be written is as it should be
            warnings.simplefilter("ignore", UserWarning)
            return torch.frombuffer(self._map, dtype=dtype, count=count, offset=at).view(shape)


class Checkpoint:
    """Open safetensors files, memory-mapped, as one.

    `path` is a file, an index, or a folder with one file or an index. FileNotFoundError where there is none, ValueError
    where a file of weights, an index or config.json cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._home = _files(path)
        self._at: dict[str, File] = {}
        self.headers: dict[str, Header] = {}
        self.block = _block(path if path.is_dir() else path.parent)

    def __enter__(self) -> Self:
        for path, names in self._home.items():
            file = File(path)
            absent = sorted(names - set(file.headers)) if names else []
            if absent:
                raise ValueError(f"the index says that {path.name} holds {', '.join(absent)}, and it does not")
            for name, header in file.headers.items():
                if name not in self._at or name in names:
                    self._at[name] = file
                    self.headers[name] = header
        return self

    def __exit__(self, *error: object) -> None:
        self._at.clear()  # tensors that were read keep the mapping of their file

    def read(self, name: str, row: int | None = None) -> Tensor:
        """One tensor backed by the file, or one row (an expert) of it; nothing may write to it."""
        return self._at[name].tensor(name, row)

    def place(self, name: str) -> tuple[Path, int]:
        """The file that holds a tensor, and where in it its numbers begin."""
        return self._at[name].path, self._at[name].offset(name)


def _files(path: Path) -> dict[Path, set[str]]:
    """The safetensors files of a checkpoint, each with the names that an index finds there (none without an index)."""
    if path.is_file():
        return _indexed(path) if path.name.endswith(".index.json") else {path: set()}
    if (path / INDEX).is_file():
        return _indexed(path / INDEX)
    if (path / SINGLE).is_file():
        return {path / SINGLE: set()}
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise FileNotFoundError(f"{path} is neither a safetensors file nor a folder with {SINGLE} or {INDEX}")
    return {found[0]: set()}


def _indexed(index: Path) -> dict[Path, set[str]]:
    """The files that an index names, and the tensors it finds there; FileNotFoundError lists files that are absent."""
    homes: dict[Path, set[str]] = {}
    files = _json(index).get("weight_map")
    if not isinstance(files, dict):
        raise ValueError(f"{index} has no weight_map")  # noqa: TRY004 - a wrong file, not a wrong argument
    for name, file in sorted(files.items(), key=lambda item: item[1]):
        homes.setdefault(index.parent / file, set()).add(name)
    absent = [file.name for file in homes if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names files that are not there: {', '.join(absent)}")
    return homes


def _block(folder: Path) -> tuple[int, int]:
    """Rows and columns that share one scale in block-FP8 weights: of the config beside them, else 128 x 128."""
    config = folder / CONFIG
    quantization = _json(config).get("quantization_config") if config.is_file() else None
    block = (quantization or {}).get("weight_block_size") or (128, 128)
    if len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        raise ValueError(f"{config}: weight_block_size is {block}, not two positive numbers")
    return block[0], block[1]


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError where there is none."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object")  # noqa: TRY004 - a wrong file, not a wrong argument
    return content


def write(folder: Path, plan: dict[str, list[str]], tensors: dict[str, Tensor]) -> None:
    """Writes each file of the plan beside its place, then moves all of them there."""
    temporary: dict[Path, Path] = {}
    try:
        for file, names in plan.items():
            temporary[folder / f".{file}.tmp"] = folder / file
            save_file(_alone(names, tensors), folder / f".{file}.tmp", metadata={"format": "pt"})
        for source, target in temporary.items():
            source.replace(target)
    finally:
        for source in temporary:
            source.unlink(missing_ok=True)


def _alone(names: list[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, copied where one of them is written under two names: files may not share memory."""
    seen: set[int] = set()
    data: dict[str, Tensor] = {}
    for name in names:
        tensor = tensors[name].detach().to("cpu").contiguous()
        data[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return data


def write_sharded(folder: Path, tensors: dict[str, Tensor], shard_bytes: int) -> None:
    """Writes the tensors to the folder as one file, or as shards of at most `shard_bytes` (or one tensor) and an index.

    Files of an older checkpoint there are removed once all are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, shard_bytes)
    count = len(shards)
    plan = {SINGLE if count == 1 else f"model-{i:05}-of-{count:05}.safetensors": s for i, s in enumerate(shards, 1)}
    stale = set(folder.glob("model-*-of-*.safetensors")) | {folder / SINGLE, folder / INDEX}
    write(folder, plan, tensors)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
            "weight_map": {name: file for file, shard in plan.items() for name in shard},
        }
        temporary = folder / f".{INDEX}.tmp"
        temporary.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        temporary.replace(folder / INDEX)
        stale -= {folder / INDEX}
    for file in stale - {folder / file for file in plan}:
        file.unlink(missing_ok=True)


def _shards(tensors: dict[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names in order, cut so that no group but those of one tensor exceeds `shard_bytes`."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        more = tensor.numel() * tensor.element_size()
        if shards[-1] and size + more > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += more
    return shards
