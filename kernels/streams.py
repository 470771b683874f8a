"""Residual streams read as a weighted sum, and written back as mixtures (hyper-connections, arXiv:2409.19606)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kept import again


def collapse(streams: Tensor, weights: Tensor) -> Tensor:
    """The sum of streams [..., M, D] times their weights [..., M]: [..., D], in the dtype of the streams."""
    flat = streams.flatten(0, -3)
    x = again(torch.bmm, weights.reshape(len(flat), 1, flat.shape[-2]).to(flat.dtype), flat)
    return x.view(*weights.shape[:-1], flat.shape[-1])


def only(streams: Tensor, stream: int) -> Tensor:
    """Weights that read one of streams [..., M, D] and no other: [..., M], in at least float32."""
    weights = streams.new_zeros(streams.shape[:-1], dtype=torch.promote_types(streams.dtype, torch.float32))
    weights[..., stream] = 1
    return weights


def filled(x: Tensor, number: float, *dims: int, narrow: bool = False) -> Tensor:
    """A number for each token of x [B, S, ...], ``dims`` times: [B, S, *dims], in at least float32 or (narrow) the
    dtype of x.
    """
    dtype = x.dtype if narrow else torch.promote_types(x.dtype, torch.float32)
    return x.new_full((*x.shape[:2], *dims), number, dtype=dtype)


def mix(streams: Tensor, comb: Tensor, y: Tensor, post: Tensor) -> Tensor:
    """Stream k as the sum of comb[j, k] times stream j, plus post[k] times y: [..., M, D], in the dtype of the streams.

    streams [..., M, D], comb [..., M, M], y [..., D], post [..., M].
    """
    flat = streams.flatten(0, -3)
    wide = flat.dtype
    operands = comb.flatten(0, -3).to(wide), y.flatten(0, -2).to(wide), post.flatten(0, -2).to(wide)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        out: Tensor = _Mix.apply(flat, *operands)  # pyright: ignore[reportAssignmentType]
    else:
        out = _mixed(flat, *operands)
    return out.view(streams.shape)


def _mixed(streams: Tensor, comb: Tensor, y: Tensor, post: Tensor) -> Tensor:
    """What `mix` gives, of T tokens."""
    return torch.bmm(comb.mT, streams).addcmul_(post.unsqueeze(-1), y.unsqueeze(-2))


class _Mix(torch.autograd.Function):
    """The mixture; its gradient is four products of small matrices, and writes nothing else of the streams' size."""

    @staticmethod
    def forward(ctx: Any, streams: Tensor, comb: Tensor, y: Tensor, post: Tensor) -> Tensor:
        ctx.save_for_backward(streams, comb, y, post)
        return again(_mixed, streams, comb, y, post)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        streams, comb, y, post = ctx.saved_tensors
        dy, dpost = torch.bmm(post.unsqueeze(-2), grad), torch.bmm(grad, y.unsqueeze(-1))
        return torch.bmm(comb, grad), torch.bmm(streams, grad.mT), dy.squeeze(-2), dpost.squeeze(-1)
