"""Sharded data parallelism: every process holds a part of every parameter, its gradient and the state of the optimizer
(FSDP2 of PyTorch; Zhao et al. 2023, arXiv:2304.11277).
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from .runtime.model import LanguageModel
from .runtime.sharded import group_of

M = TypeVar("M", bound=LanguageModel)


def apply_fsdp(
    model: M,
    mesh: DeviceMesh,
    *,
    reshard_after_forward: bool = True,
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = None,
) -> M:
    """Shards a model in place over the processes of a mesh, and returns it.

    A mesh of two dimensions repeats over the first and shards over the second (HSDP). All processes begin with the
    weights of the first, unless the model is on the meta device (then `to_empty` and `load_weights` follow). Make the
    optimizer afterwards, of the new parameters.

    The units that are gathered together are each layer, each module of MTP, the embedding and the head: the last two
    are as large as layers, and needed at one end of a pass only. What is left stays gathered in the root unit from
    the first forward to the end of the backward pass. With `reshard_after_forward=False` that goes for all units.

    `param_dtype` is what gathered weights and their gradients are cast to, `reduce_dtype` what gradients are summed in.
    Parameters that stay in float32 in any model (mixing of residual streams, sinks, biases by position) are not cast,
    and in a model of several dtypes all of them are in the root unit: a unit has one dtype.

    Gradients are the mean over processes, so that of the mean loss where each has as many targets. Raises ValueError
    for a model that is sharded already, or with tables that are not on the device or have sparse gradients.
    """
    if model.mesh is not None:
        raise ValueError("this model is sharded already")
    for name, module in model.named_modules():
        if getattr(module, "placement", "device") != "device":
            raise ValueError(f'{name} is not on the device, and only what is can be sharded: Model(memory="device")')
        if getattr(module, "sparse", False):
            raise ValueError(f"{name} has sparse gradients, which cannot be sharded: model.sparse_gradients = False")
    if not next(model.parameters()).is_meta:
        _agree(model, group_of(mesh))
    model.mesh, model.param_dtype = mesh, param_dtype
    # The step is handed through as it is: cast, it would be a copy, and rotations would lose digits.
    cast = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=reduce_dtype, cast_forward_inputs=False)
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    wide = _wide(model) if param_dtype is not None or len({p.dtype for p in model.parameters()}) > 1 else set()
    if wide:  # the root unit comes first here, for it takes parameters out of modules that are units themselves
        others = {p for name, p in model.named_parameters() if name not in wide}
        fully_shard(model, mesh=mesh, mp_policy=plain, reshard_after_forward=False, ignored_params=others)
    ignored = {p for name, p in model.named_parameters() if name in wide}
    tied = set(model.tied_weights.values())
    for name, unit in _units(model, whole=bool(wide)):
        # A tied embedding is read by the head, which is no module of its own.
        reshard = reshard_after_forward and f"{name}.weight" not in tied
        fully_shard(unit, mesh=mesh, mp_policy=cast, reshard_after_forward=reshard, ignored_params=ignored)
    if not wide:
        fully_shard(model, mesh=mesh, mp_policy=cast, reshard_after_forward=False)
    register_fsdp_forward_method(model, "next_logits")
    return model


def _units(model: LanguageModel, *, whole: bool) -> list[tuple[str, nn.Module]]:
    """What is gathered together, by name; with `whole` every parameter that may be is in one of these."""
    units: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{taken}.") for taken, _ in units):
            continue
        if hasattr(module, "sub_layers") or isinstance(module, nn.Embedding) or name == "lm_head":
            units.append((name, module))
    if whole:  # the rest with a module that runs: a norm does not where a function of several ops reads its weight
        taken = {name for name, _ in units}
        parts = [(n, m) for n, m in model.named_children() if not isinstance(m, nn.ModuleList)]
        parts += [
            (f"{n}.{i}", part)
            for n, m in model.named_children()
            if isinstance(m, nn.ModuleList)
            for i, part in m.named_children()
        ]
        units += [(name, part) for name, part in parts if name not in taken]
    return units


def _wide(model: LanguageModel) -> set[str]:
    """Names of parameters that stay in float32 in a model of any dtype."""
    given = {"mtp": bool(model.mtp)} if hasattr(model, "mtp") else {}
    narrow = type(model)(device="meta", dtype=torch.bfloat16, **given)
    return {name for name, p in narrow.named_parameters() if p.dtype == torch.float32}


@torch.no_grad()
def _agree(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Gives all processes the parameters and buffers of the first."""
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor, group=group, group_src=0)
