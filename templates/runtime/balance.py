"""Balancing experts by a bias on their scores, without a loss (DeepSeek-V3, arXiv:2412.19437)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(kw_only=True)
class Load:
    """How many tokens chose each expert of a router."""

    bias: Tensor  # [E], which the update moves
    count: Tensor  # [E] int64
    rate: float


def count_choices(ids: Tensor, valid: Tensor, experts: int) -> Tensor:
    """How many of the valid [B, S] tokens chose each expert, ids [B, S, K]: [experts] int64, without a wait."""
    chosen = valid[..., None].expand_as(ids).to(torch.int64)
    return torch.zeros(experts, dtype=torch.int64, device=ids.device).scatter_add(0, ids.flatten(), chosen.flatten())


def recomputing() -> bool:
    """Whether this forward is run by a backward pass, which has lost what it needs: its tokens were seen before."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def add_up(held: list[Load], new: list[Load]) -> None:
    """Adds the loads of a forward to those held since the last step, in place: memory does not grow."""
    for more in new:
        for load in held:
            if load.bias is more.bias:
                load.count += more.count
                break
        else:
            held.append(more)


@torch.no_grad()
def update(loads: list[Load], buffers: Iterable[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Moves every bias by its rate: up where an expert had less than the mean load, down where it had more.

    Loads are summed over the processes of `group` (all of them when it is None) where torch.distributed runs, then
    start at zero again. `buffers` are the model's own: RuntimeError where a bias is no longer one of them.
    """
    if not loads:
        return
    known = {id(buffer) for buffer in buffers}
    if not all(id(load.bias) in known for load in loads):
        raise RuntimeError("the model was moved or converted since its last forward: call after_step() before that")
    counts = torch.cat([load.count for load in loads])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts, group=group)
    for load, count in zip(loads, counts.split([len(load.count) for load in loads]), strict=True):
        load.bias += load.rate * (count.sum() - len(count) * count).sign()
        load.count.zero_()
