"""Weights in safetensors files: one file, or a folder of shards with an index as the model hub has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from .model import LanguageModel

SHARD_BYTES = 5_000_000_000
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
COMPUTED = ("rotary_emb.inv_freq",)
"""Endings of names that old checkpoints carry and this package computes."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a checkpoint and the model did not have in common."""

    missing: tuple[str, ...]  # parameters the checkpoint does not have, left as they were
    unexpected: tuple[str, ...]  # tensors of the checkpoint that the model does not have


@torch.no_grad()
def load_weights(
    model: LanguageModel, path: str | Path, *, strict: bool = True, device: torch.device | str | None = None
) -> Loaded:
    """Fills the model from a safetensors file, or a folder that has one or an index of several.

    Files are memory-mapped and read one tensor at a time, in the model's dtype. A model on the meta device is given
    memory on `device` (default: cpu). ValueError lists every tensor that is missing or unexpected (unless not `strict`)
    or of another shape; nothing is changed then.
    """
    files = _files(Path(path))
    with _Checkpoint(files) as checkpoint:
        wanted = _tensors(model)
        repeats = {name: owner for name, owner in model.tied_weights.items() if name in checkpoint.shapes}
        source = {name: name for name in wanted if name in checkpoint.shapes}
        for name, owner in repeats.items():
            source.setdefault(owner, name)
        _share(source, wanted)
        missing = tuple(name for name in wanted if name not in source)
        known = wanted.keys() | repeats.keys()
        unexpected = tuple(n for n in sorted(checkpoint.shapes) if n not in known and not n.endswith(COMPUTED))
        problems = [
            f"{name} is {list(checkpoint.shapes[key])} in the checkpoint and {list(wanted[name].shape)} in the model"
            for name, key in source.items()
            if checkpoint.shapes[key] != tuple(wanted[name].shape)
        ]
        if strict:
            problems += _listed("missing from the checkpoint", missing) + _listed("not in the model", unexpected)
        homeless = [name for name in missing if wanted[name].is_meta]
        if not strict and homeless:
            problems += _listed("on the meta device and missing from the checkpoint", tuple(homeless))
        if problems:
            raise ValueError(f"{path} does not fit this model:\n  " + "\n  ".join(problems))
        made: dict[int, Tensor] = {}
        for name, key in source.items():
            tensor = wanted[name]
            if not tensor.is_meta:
                tensor.copy_(checkpoint.read(key))
                continue
            if id(tensor) not in made:
                value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device or "cpu").copy_(
                    checkpoint.read(key)
                )
                grad = tensor.requires_grad
                made[id(tensor)] = nn.Parameter(value, grad) if isinstance(tensor, nn.Parameter) else value
            _assign(model, name, made[id(tensor)])
    return Loaded(missing=missing, unexpected=unexpected)


@torch.no_grad()
def save_weights(
    model: LanguageModel,
    path: str | Path,
    *,
    names: Literal["transformers"] = "transformers",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the weights to the file `path` (*.safetensors), or to the folder `path`: one file, or shards and an index.

    A shard has at most `shard_bytes` bytes, or one tensor. Names are those of transformers. Files take their places
    only when all are written.
    """
    if names != "transformers":
        raise ValueError(f"names is {names!r}; this package writes the names of transformers")
    path = Path(path)
    tensors = {name: tensor for name, tensor in _tensors(model).items() if name not in model.tied_weights}
    owners: dict[int, str] = {}
    tensors = {name: t for name, t in tensors.items() if owners.setdefault(id(t), name) == name}
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path.parent, {path.name: list(tensors)}, tensors)
        return
    path.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, shard_bytes)
    count = len(shards)
    plan = {SINGLE if count == 1 else f"model-{i:05}-of-{count:05}.safetensors": s for i, s in enumerate(shards, 1)}
    stale = set(path.glob("model-*-of-*.safetensors")) | {path / SINGLE, path / INDEX}
    _write(path, plan, tensors)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
            "weight_map": {name: file for file, shard in plan.items() for name in shard},
        }
        temporary = path / f".{INDEX}.tmp"
        temporary.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        temporary.replace(path / INDEX)
        stale -= {path / INDEX}
    for file in stale - {path / file for file in plan}:
        file.unlink(missing_ok=True)


class _Checkpoint:
    """Open safetensors files as one."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._open: list[Any] = []
        self._home: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> Self:
        for path in self._files:
            file = safe_open(path, framework="pt")
            file.__enter__()
            self._open.append(file)
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                self._home[name] = file
                self.shapes[name] = tuple(file.get_slice(name).get_shape())
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._open:
            file.__exit__(*error)

    def read(self, name: str) -> Tensor:
        """One tensor, backed by the file."""
        return self._home[name].get_tensor(name)


def _files(path: Path) -> list[Path]:
    """The safetensors files of a checkpoint; FileNotFoundError where there is none."""
    if path.is_file():
        if path.name.endswith(".index.json"):
            return _indexed(path)
        return [path]
    if (path / INDEX).is_file():
        return _indexed(path / INDEX)
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise FileNotFoundError(f"{path} is neither a safetensors file nor a folder with {SINGLE} or {INDEX}")
    return found


def _indexed(index: Path) -> list[Path]:
    """The files that an index names; FileNotFoundError lists those that are not there."""
    files = [index.parent / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names files that are not there: {', '.join(absent)}")
    return files


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer by every name it has."""
    return model.state_dict(keep_vars=True)


def _share(source: dict[str, str], wanted: dict[str, Tensor]) -> None:
    """Lets every name of a shared parameter read what one of them has in the checkpoint."""
    by_tensor = {id(wanted[name]): key for name, key in source.items()}
    for name, tensor in wanted.items():
        if name not in source and id(tensor) in by_tensor:
            source[name] = by_tensor[id(tensor)]


def _listed(what: str, names: tuple[str, ...]) -> list[str]:
    """One line about tensors that do not match."""
    return [f"{len(names)} {what}: {', '.join(names)}"] if names else []


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a parameter or buffer in the place of the one called `name`."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, tensor)


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


def _write(folder: Path, plan: dict[str, list[str]], tensors: dict[str, Tensor]) -> None:
    """Writes each file of the plan beside its place, then moves all of them there."""
    temporary: dict[Path, Path] = {}
    try:
        for file, names in plan.items():
            temporary[folder / f".{file}.tmp"] = folder / file
            data = {name: tensors[name].detach().to("cpu").contiguous() for name in names}
            save_file(data, folder / f".{file}.tmp", metadata={"format": "pt"})
        for source, target in temporary.items():
            source.replace(target)
    finally:
        for source in temporary:
            source.unlink(missing_ok=True)
