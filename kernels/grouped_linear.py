"""One matrix product per group of rows: the experts of a mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import on_cpu
from .kept import kept
from .library import operator


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight[e].T (+ bias[e]) for the rows of each group e: [R, O].

    x [R, I], weight [E, O, I], bias [E, O]; the rows of group e end before ``ends[e]`` (whole numbers [E], the last is
    R), where those of the next begin. A group without rows is neither read nor given a gradient other than zero.
    """
    if (few := on_cpu.grouped(x, weight, ends, bias)) is not None:
        return few
    if _multiplied_on_device(x, weight, ends):
        y = F.grouped_mm(x, weight.mT, offs=ends)
        return y if bias is None else y + bias.index_select(0, _groups(ends, x.shape[0]))
    if torch.compiler.is_compiling():
        return grouped_linear_forward(x, weight, ends, bias)
    run = _GroupedLinear.apply if torch.is_grad_enabled() else _product
    return run(x, weight, ends, bias)  # pyright: ignore[reportReturnType]


def _multiplied_on_device(x: Tensor, weight: Tensor, ends: Tensor) -> bool:
    """Whether PyTorch has a product that reads the ends where they are, for operands like these: bfloat16 on a GPU,
    rows of whole 16 bytes.
    """
    if not (ends.is_cuda and x.dtype == weight.dtype == torch.bfloat16):
        return False
    return weight.shape[1] % 8 == 0 == weight.shape[2] % 8 and torch.cuda.get_device_capability(x.device) >= (8, 0)


def _groups(ends: Tensor, rows: int) -> Tensor:
    """The group of every row [R]."""
    return torch.searchsorted(ends, torch.arange(rows, device=ends.device, dtype=ends.dtype), right=True)


def _runs(ends: Tensor, rows: int) -> tuple[list[int], list[int]]:
    """The groups that have rows, and how many each has."""
    if ends.is_meta:
        return [0], [rows]  # without data any split will do: the products are the same work
    groups, sizes, begin = [], [], 0
    for group, end in enumerate(ends.tolist()):
        if end > begin:
            groups.append(group)
            sizes.append(end - begin)
            begin = end
    if begin != rows:
        raise ValueError(f"the groups end at row {begin} of {rows}")
    return groups, sizes


def _product(x: Tensor, weight: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
    """What `grouped_linear` gives."""
    groups, sizes = _runs(ends, x.shape[0])
    y, across = x.new_empty(x.shape[0], weight.shape[1]), weight.mT
    for group, rows, out in zip(groups, x.split_with_sizes(sizes), y.split_with_sizes(sizes), strict=True):
        if bias is None:
            torch.mm(rows, across[group], out=out)
        else:
            torch.addmm(bias[group], rows, across[group], out=out)
    return y


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor, biased: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias (None without one)."""
    groups, sizes = _runs(ends, x.shape[0])
    dx = torch.empty_like(x)
    # Laid out as the weight is, which may be a transposed view: a gradient in another layout would be copied
    dweight = torch.empty_like(weight)
    for group in set(range(len(weight))).difference(groups):
        dweight[group].zero_()  # only these: the gradients of all other groups are written below
    dbias = grad.new_zeros(weight.shape[:2]) if biased else None
    for group, slope, rows, out in zip(
        groups, grad.split_with_sizes(sizes), x.split_with_sizes(sizes), dx.split_with_sizes(sizes), strict=True
    ):
        torch.mm(slope, weight[group], out=out)
        torch.mm(slope.mT, rows, out=dweight[group])
        if dbias is not None:
            torch.sum(slope, 0, out=dbias[group])
    return dx, dweight, dbias


class _GroupedLinear(torch.autograd.Function):
    """The product in plain PyTorch, with a gradient that touches only groups with rows."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
        return kept(_product, x, weight, ends, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ends, bias = inputs
        ctx.save_for_backward(x, weight, ends)
        ctx.biased = bias is not None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, ends = ctx.saved_tensors
        dx, dweight, dbias = _gradients(grad, x, weight, ends, ctx.biased)
        return dx, dweight, None, dbias


@operator
def grouped_linear_forward(x: Tensor, weight: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
    """The product as one opaque operator: which rows meet is not known when a compiler traces it."""
    return _product(x, weight, ends, bias)


@grouped_linear_forward.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@operator
def grouped_linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor, biased: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias (empty without one)."""
    dx, dweight, dbias = _gradients(grad, x, weight, ends, biased)
    return dx, dweight, grad.new_empty(0) if dbias is None else dbias


@grouped_linear_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor, biased: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), grad.new_empty(weight.shape[:2] if biased else (0,))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None]:
    dx, dweight, dbias = grouped_linear_backward(grad, *ctx.saved_tensors, ctx.biased)
    return dx, dweight, None, dbias if ctx.biased else None


grouped_linear_forward.register_autograd(_backward, setup_context=_GroupedLinear.setup_context)
