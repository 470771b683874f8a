"""Weights in safetensors files: one file, or a folder of shards with an index as the model hub has it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint, write, write_sharded
from .formats import Stored, stored
from .names import PUBLISHED, Names, Place
from .sharded import by_first, is_sharded, released, rows_held, shape_of

if TYPE_CHECKING:
    from .model import LanguageModel

SHARD_BYTES = 5_000_000_000
SHOWN = 20
"""Names that a message lists before it groups them."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a checkpoint and the model did not have in common."""

    missing: tuple[str, ...]  # parameters, or experts of one, that the checkpoint does not have: left as they were
    unexpected: tuple[str, ...]  # tensors of the checkpoint that the model does not have


@torch.no_grad()
def load_weights(
    model: LanguageModel, path: str | Path, *, strict: bool = True, device: torch.device | str | None = None
) -> Loaded:
    """Fills the model from a safetensors file, or a folder that has one or an index of several.

    Names are those of transformers, of the hub (experts one by one, MTP modules as further layers), or of DeepSeek's
    inference code; MTP modules that the model was built without are passed over. Weights in blocks of FP8 or FP4 are
    dequantised in float32. Files are memory-mapped and read one matrix at a time, into the model's dtype. A model on
    the meta device is given memory on `device` (default: cpu); one that is sharded has memory (`to_empty`), and each
    process reads the rows that it holds. ValueError lists every tensor that is missing or
    unexpected (unless not `strict`), of another shape, or not to be read; nothing is changed then.
    """
    released(model)
    wanted = _tensors(model)
    if any(is_sharded(tensor) and tensor.is_meta for tensor in wanted.values()):
        raise ValueError('a sharded model on the meta device has no memory: call to_empty(device="cpu") or so first')
    names = Names(wanted, model.tied_weights)
    with Checkpoint(Path(path)) as checkpoint:
        sources, unexpected, problems = _sources(names, stored(checkpoint.headers, checkpoint.block))
        _share(sources, wanted)
        missing = tuple(_missing(names, sources))
        for place, source in sources.items():
            problems += _misfit(place, source, place.of(shape_of(wanted[place.name])))
        if strict:
            problems += _listed("missing from the checkpoint", missing) + _listed("not in the model", unexpected)
        else:
            homeless = tuple(_missing(names, sources, only_meta=True))
            problems += _listed("on the meta device and missing from the checkpoint", homeless)
        if problems:
            raise ValueError(f"{path} does not fit this model:\n  " + "\n  ".join(problems))
        _fill(model, wanted, sources, checkpoint, device)
    return Loaded(missing=missing, unexpected=unexpected)


@torch.no_grad()
def save_weights(
    model: LanguageModel,
    path: str | Path,
    *,
    names: Literal["transformers", "hub", "mixtral", "deepseek_v4"] = "transformers",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the weights to the file `path` (*.safetensors), or to the folder `path`: one file, or shards and an index.

    A shard has at most `shard_bytes` bytes, or one tensor. Names are those of transformers' modules, which
    `from_pretrained` loads; "hub" has experts one by one and MTP modules as further layers, as most families publish
    them; "mixtral" is the same in Mixtral's words; "deepseek_v4" has the names of DeepSeek-V4's inference code. Files
    take their places only when all are written. Of a sharded model all processes call this, and the first writes.
    """
    path = Path(path)
    owners: dict[int, str] = {}
    own = {name: tensor for name, tensor in _tensors(model).items() if name not in model.tied_weights}
    tensors = {name: tensor for name, tensor in own.items() if owners.setdefault(id(tensor), name) == name}
    if names not in PUBLISHED and names != "transformers":
        known = ", ".join(map(repr, ("transformers", *PUBLISHED)))
        raise ValueError(f"names is {names!r}; this package writes {known}")

    def put(tensors: dict[str, Tensor]) -> None:
        if names in PUBLISHED:
            places = Names(tensors, model.tied_weights).published(PUBLISHED[names])
            tensors = {name: place.of(tensors[place.name]) for name, place in places.items()}
        if path.suffix == ".safetensors":
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path.parent, {path.name: list(tensors)}, tensors)
        else:
            write_sharded(path, tensors, shard_bytes)

    by_first(model, tensors, put)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer by every name it has."""
    return model.state_dict(keep_vars=True)


def _sources(names: Names, tensors: dict[str, Stored]) -> tuple[dict[Place, Stored], tuple[str, ...], list[str]]:
    """What fills each place, what belongs nowhere, and what claims the same place twice."""
    sources: dict[Place, Stored] = {}
    repeats: dict[Place, Stored] = {}
    unexpected: list[str] = []
    clashes: list[str] = []
    for key, place, repeated in names.read(tensors):
        if place is None:
            # transformers stores the matrices of no shared experts: tensors without a number.
            if 0 not in tensors[key].shape:
                unexpected.append(key)
        elif repeated:
            repeats.setdefault(place, tensors[key])
        elif place in sources:
            both = " and ".join(sorted((sources[place].numbers, tensors[key].numbers)))
            clashes.append(f"{both} are both {place.hub_name}")
        else:
            sources[place] = tensors[key]
    whole = {place.name for place in sources if place.expert is None}
    parted = {place.name for place in sources if place.expert is not None}
    clashes += [f"{name} is in the checkpoint both whole and by expert" for name in sorted(whole & parted)]
    return repeats | sources, tuple(sorted(unexpected)), clashes


def _share(sources: dict[Place, Stored], wanted: dict[str, Tensor]) -> None:
    """Lets every name of a shared parameter read what one of them has in the checkpoint."""
    by_tensor: dict[int, dict[Place, Stored]] = {}
    for place, source in sources.items():
        by_tensor.setdefault(id(wanted[place.name]), {})[place] = source
    filled = {place.name for place in sources}
    for name, tensor in wanted.items():
        if name not in filled:
            sources.update({p._replace(name=name): s for p, s in by_tensor.get(id(tensor), {}).items()})


def _missing(names: Names, sources: dict[Place, Stored], *, only_meta: bool = False) -> Iterable[str]:
    """Names of what the checkpoint does not fill: of a parameter, or of the experts it lacks where it has others."""
    some = {place.name for place in sources}
    for name, tensor in names.wanted.items():
        if Place(name) in sources or (only_meta and not tensor.is_meta):
            continue
        if name in some:
            yield from (place.hub_name for place in names.places[name] if place not in sources)
        else:
            yield name


def _misfit(place: Place, source: Stored, target: Tensor) -> list[str]:
    """One line where a tensor of the checkpoint cannot fill its place."""
    at = place.hub_name
    if source.problem:
        return [source.problem]
    if source.shape != tuple(target.shape):
        return [f"{at} is {list(source.shape)} in the checkpoint and {list(target.shape)} in the model"]
    if source.floating != target.is_floating_point():
        kinds = {True: "floating point numbers", False: "integers"}
        return [f"{at} has {kinds[source.floating]} in the checkpoint and {kinds[not source.floating]} in the model"]
    return []


def _fill(
    model: nn.Module,
    wanted: dict[str, Tensor],
    sources: dict[Place, Stored],
    checkpoint: Checkpoint,
    device: torch.device | str | None,
) -> None:
    """Reads every source into its place, giving parameters on the meta device memory as their turn comes."""
    homes: dict[int, Tensor] = {}
    for place, source in sources.items():
        home = tensor = wanted[place.name]
        if is_sharded(tensor):
            _fill_part(place, source, tensor, checkpoint)
            continue
        table = model.get_submodule(place.name.rpartition(".")[0])
        if getattr(table, "placement", "device") != "device":  # a table in host memory or on disk
            memory, folder, viewed = table.prepared(source, checkpoint)  # type: ignore[operator]
            table.hold(memory, folder, viewed=viewed)  # type: ignore[operator]
            continue
        if tensor.is_meta:
            if id(tensor) not in homes:
                memory = torch.empty(tensor.shape, dtype=tensor.dtype, device=device or "cpu")
                grad = tensor.requires_grad
                homes[id(tensor)] = nn.Parameter(memory, grad) if isinstance(tensor, nn.Parameter) else memory
            home = homes[id(tensor)]
            _assign(model, place.name, home)
        source.copy_to(place.of(home), checkpoint)


def _fill_part(place: Place, source: Stored, tensor: Any, checkpoint: Checkpoint) -> None:
    """Reads what this process holds of a sharded tensor: an expert, or rows of what is read whole."""
    part, (start, stop) = tensor.to_local(), rows_held(tensor)
    if place.expert is None:
        whole = torch.empty(tensor.shape, dtype=tensor.dtype)
        source.copy_to(whole, checkpoint)
        part.copy_(whole[start:stop])
    elif start <= place.expert < stop:
        source.copy_to(place._replace(expert=place.expert - start).of(part), checkpoint)


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a parameter or buffer in the place of the one called `name`."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, tensor)


def _listed(what: str, names: tuple[str, ...]) -> list[str]:
    """One line about tensors that do not match; names that differ in numbers only are grouped where there are many."""
    if not names:
        return []
    shown = list(names)
    if len(names) > SHOWN:
        groups = Counter(re.sub(r"\d+", "*", name) for name in names)
        shown = [f"{name} ({count})" for name, count in groups.items()]
    return [f"{len(names)} {what}: {', '.join(shown)}"]
