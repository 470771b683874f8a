"""Rows of tokens side by side for the expert that each goes to, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import on_cpu
from .upcast import upcast


def dispatch(x: Tensor, ids: Tensor, *, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The row of a token once for each of its experts, sorted by expert: rows [N K, D], order [N K], ends [experts].

    x [..., D] and ids [..., K] of N tokens. Row r is that of choice ``order[r]``, counted over tokens and their K
    choices; of one expert earlier tokens come first. The rows of expert e end before ``ends[e]``, where those of the
    next begin. Every shape is known beforehand, so only what reads ``ends`` waits for the routing.
    """
    order, ends = on_cpu.sort_choices(x, ids, experts) or _sorted(x, ids, experts)
    tokens, k = x.flatten(0, -2), ids.shape[-1]
    if torch.is_grad_enabled():
        return _Dispatch.apply(tokens, order, k), order, ends  # pyright: ignore[reportReturnType]
    if len(tokens) == 1 and x.is_cpu:  # decoding, where calls are what takes time: one row, as often as it is wanted
        return tokens.expand(k, -1), order, ends
    return _rows(tokens, order, k), order, ends


def combine(y: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    """What the experts of a token give, weighted and summed, in the dtype of y: [..., D].

    y [N K, D] in the ``order`` that `dispatch` gave, weights [..., K] in that of the choices. Sums in at least float32.
    """
    run = _Combine.apply if torch.is_grad_enabled() else _combined
    out: Tensor = run(y, weights.flatten(0, -2), order)  # pyright: ignore[reportAssignmentType]
    return out.view(*weights.shape[:-1], y.shape[-1])


def _sorted(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """The order and the ends of `dispatch`."""
    chosen, order = ids.flatten().sort(stable=True)
    ends = torch.searchsorted(chosen, torch.arange(experts, device=ids.device), right=True, out_int32=True)
    if ends.is_cuda and x.dtype != torch.bfloat16:
        ends = ends.cpu()  # the one wait: who multiplies there run by run would wait for it every time
    return order, ends


def _rows(x: Tensor, order: Tensor, k: int) -> Tensor:
    """The row of each choice, in order: [N K, D]."""
    return x.index_select(0, order // k)


def _combined(y: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    """The weighted sum of each token's rows: [N, D]."""
    out = on_cpu.combine(y, weights, order)
    if out is not None:
        return out
    if len(weights) == 1:  # decoding, where calls are what takes time: all rows are those of the one token
        scale = upcast(weights).flatten().index_select(0, order)
        return (upcast(y) * scale.unsqueeze(-1)).sum(0, keepdim=True).to(y.dtype)
    return _sum(y, _places(order, weights.shape[-1]), weights, y.dtype)


def _places(order: Tensor, k: int) -> Tensor:
    """Where each token's rows stand: [N, K]."""
    places = torch.arange(order.shape[0], device=order.device)
    return torch.empty_like(order).scatter_(0, order, places).view(-1, k)


def _sum(rows: Tensor, places: Tensor, weights: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The sum of each token's rows, times weights [N, K] if any, in at least float32 and then as ``dtype``: [N, D].

    A token is a bag of rows, so nothing of the size of rows is written on the way.
    """
    rows = upcast(rows)
    weights = None if weights is None else weights.to(rows.dtype)
    return F.embedding_bag(places, rows, mode="sum", per_sample_weights=weights).to(dtype)


class _Dispatch(torch.autograd.Function):
    """Rows of x by choice; backward sums those of a token in a fixed order, in float32, on every device."""

    forward = staticmethod(_rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, order, ctx.k = inputs
        ctx.save_for_backward(order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (order,) = ctx.saved_tensors
        return _sum(grad, _places(order, ctx.k), None, grad.dtype), None, None


class _Combine(torch.autograd.Function):
    """The weighted sum; keeps y as it came, not a float32 copy of it."""

    forward = staticmethod(_combined)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, weights, order = ctx.saved_tensors
        k = weights.shape[-1]
        wide = torch.promote_types(y.dtype, torch.float32)
        rows = grad.to(wide).index_select(0, order // k)
        slopes = (rows * y).sum(-1).index_select(0, _places(order, k).flatten())
        scale = weights.to(wide).flatten().index_select(0, order)
        return rows.mul_(scale[:, None]).to(y.dtype), slopes.view_as(weights).to(weights.dtype), None
