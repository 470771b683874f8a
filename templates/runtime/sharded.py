"""Tensors of which every process holds a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


def group_of(mesh: DeviceMesh) -> ProcessGroup:
    """All processes of a mesh."""
    return mesh.get_group() if mesh.ndim == 1 else mesh._flatten().get_group()


def is_sharded(tensor: Any) -> bool:
    """Whether it is a part of a tensor (DTensor), not a whole one."""
    return hasattr(tensor, "placements")


def released(model: nn.Module) -> None:
    """Parameters that a forward left gathered become parts again: what is written to them then lasts."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # type: ignore[operator]


def gathered(tensors: dict[str, Tensor], first: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU in the `first` process, gathered one after the other; nothing in the others."""
    whole = {}
    for name, tensor in tensors.items():
        full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
        if first:
            whole[name] = full.detach().cpu()
    return whole


def by_first(model: nn.Module, tensors: dict[str, Tensor], write: Callable[[dict[str, Tensor]], None]) -> None:
    """Has tensors of a model written, whole: by the first process where it is sharded, and the others wait for it."""
    mesh: DeviceMesh | None = getattr(model, "mesh", None)
    if mesh is None:
        write(tensors)
        return
    released(model)
    first = not any(mesh.get_coordinate() or ())
    tensors = gathered(tensors, first)
    if first:
        write(tensors)
    dist.barrier(group_of(mesh))


def rows_held(tensor: Any) -> tuple[int, int]:
    """The first row that this process holds of a tensor, and the one after the last."""
    rows, (start, stop) = tensor.shape[0], (0, tensor.shape[0])
    for dim, placement in enumerate(tensor.placements):
        if placement.is_shard():
            chunk = -(-rows // tensor.device_mesh.size(dim))
            start = min(rows, chunk * tensor.device_mesh.get_local_rank(dim))
            stop = min(rows, start + chunk)
    return start, stop


def shape_of(tensor: Tensor) -> Tensor:
    """A tensor that can be cut as this one, without its memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if is_sharded(tensor) else tensor
