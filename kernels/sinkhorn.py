"""Doubly stochastic mixing matrices (mHC, arXiv:2512.24880, in the form of DeepSeek-V4's inference code)."""

from __future__ import annotations

from functools import cache
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .upcast import upcast

BLOCK = 2048
"""Tokens whose passes run together, so that they stay in a cache, and the memory of a gradient stays bounded."""


def sinkhorn(logits: Tensor, *, iters: int, eps: float) -> Tensor:
    """[..., M, M] -> matrices whose columns sum to one and whose rows nearly do; computed in at least float32.

    ``iters`` passes over rows and columns; the softmax is the first pass over rows, and the last pass is over
    columns (dim -2). ``eps`` is added after the softmax and to every divisor; without it the passes work on
    logarithms, where no sum that divides can be rounded to zero, however far the logits lie apart.
    """
    m = upcast(logits)
    if eps == 0:
        for _ in range(iters - 1):
            m = m.log_softmax(-1).log_softmax(-2)
        return m.log_softmax(-1).softmax(-2).to(logits.dtype)
    m = m.softmax(-1) + eps
    if torch.compiler.is_compiling():  # a compiler fuses the passes, and derives the gradient from them
        m = m / (m.sum(-2, keepdim=True) + eps)
        for _ in range(iters - 1):
            m = m / (m.sum(-1, keepdim=True) + eps)
            m = m / (m.sum(-2, keepdim=True) + eps)
    else:
        run = _Passes.apply if torch.is_grad_enabled() else _passes
        out: Tensor = run(m.view(-1, m.shape[-1] ** 2), iters, eps)  # pyright: ignore[reportAssignmentType]
        m = out.view(m.shape)
    return m.to(logits.dtype)


@cache
def _sums(m: int, eps: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices [M M + 1, M M + 1] that make of a flattened M x M matrix, and a one after it, the sum of the column, or
    of the row, of every place plus eps, and a one again: a pass is one product and one division.
    """
    with torch.inference_mode(mode=False):  # a later call may need them for a gradient
        one, ones = torch.eye(m, dtype=dtype, device=device), torch.ones(m, m, dtype=dtype, device=device)
        last = torch.full((1, m * m + 1), eps, dtype=dtype, device=device)
        last[:, -1] = 1
        by_column, by_row = (torch.cat([F.pad(s, (0, 1)), last]) for s in (ones.kron(one), one.kron(ones)))
    return by_column, by_row


def _passes(x: Tensor, iters: int, eps: float) -> Tensor:
    """Matrices [T, M M] divided by the sums of their columns and rows in turn."""
    by_column, by_row = _sums(isqrt(x.shape[-1]), eps, x.dtype, x.device)
    parts = []
    for rows in x.split(BLOCK) if len(x) > BLOCK else (x,):
        m = F.pad(rows, (0, 1), value=1.0)
        total = torch.empty_like(m)
        m.div_(torch.mm(m, by_column, out=total))
        for _ in range(iters - 1):
            m.div_(torch.mm(m, by_row, out=total))
            m.div_(torch.mm(m, by_column, out=total))
        parts.append(m[:, :-1])
    return torch.cat(parts)


class _Passes(torch.autograd.Function):
    """Division by the sums of columns and rows in turn, of matrices [T, M M]; the gradient runs the passes again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, iters: int, eps: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.iters, ctx.eps = iters, eps
        return _passes(x, iters, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        by_column, by_row = _sums(isqrt(x.shape[-1]), ctx.eps, x.dtype, x.device)
        passes = [by_column, *[by_row, by_column] * (ctx.iters - 1)]
        dx = torch.empty_like(x)
        for rows, upstream, result in zip(x.split(BLOCK), grad.split(BLOCK), dx.split(BLOCK), strict=True):
            m, totals, results = F.pad(rows, (0, 1), value=1.0), [], []
            for same in passes:
                totals.append(m @ same)
                m = m / totals[-1]
                results.append(m)
            # d (x / t) is dx / t less what all x of one sum share: (g - sum of g y) / t.
            d = F.pad(upstream, (0, 1))
            for same, total, y in zip(reversed(passes), reversed(totals), reversed(results), strict=True):
                torch.addmm(d, d * y, same, alpha=-1, out=d).div_(total)
            result.copy_(d[:, :-1])
        return dx, None, None
