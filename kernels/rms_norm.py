"""Root-mean-square normalisation: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import on_cpu
from .dispatch import use_triton
from .library import (
    FUSED_MULTIPLY_ADD,
    add_up,
    as_rows,
    jit,
    next_power_of_2,
    on_device,
    operator,
    processors,
    shares_of,
    tl,
)
from .upcast import upcast

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

# Forward keeps a whole row in registers, backward two and its sums; beyond these widths they would spill.
WIDEST = 16384
WIDEST_WHOLE_BACKWARD = 8192

# Rows up to which a launch more, and shares, count beside them: one program sums, or two of wide rows.
FEW = 64

LARGE, PIECE = 1 << 16, 256
"""Elements from which on squares are worth not writing, and channels whose squares are summed without writing them."""


def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float) -> Tensor:
    """x [..., D] over the root of its mean square along D, times weight [D]: the shape and dtype of x.

    Computed in at least float32, the product with the weight included, and rounded once.
    """
    if weight is not None and weight.shape != x.shape[-1:]:
        raise ValueError(f"the weight of rms_norm must be [{x.shape[-1]}], not {list(weight.shape)}")
    if (out := on_cpu.rms_norm(x, weight, eps)) is not None:
        return out
    if x.shape[-1] <= WIDEST and use_triton(x, weight):
        return rms_norm_forward(x, weight, eps)[0]
    return reference(x, weight, eps=eps)


def inverse_rms(x: Tensor, *, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) along the last dim of x [..., D]: [..., 1], in at least float32.

    A norm without weight before a matrix is this factor after it, which spares a normed copy of x.
    """
    wide = upcast(x)
    if torch.compiler.is_compiling():
        return torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if torch.is_grad_enabled():
        return _InverseRms.apply(wide, eps)  # pyright: ignore[reportReturnType]
    return _mean_square(wide).add_(eps).rsqrt_()


class _InverseRms(torch.autograd.Function):
    """Keeps x, and no squares."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        rstd = _mean_square(x).add_(eps).rsqrt_()
        ctx.save_for_backward(x, rstd)
        return rstd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, rstd = ctx.saved_tensors
        # Scaled one after the other: the cube would overflow where the gradient is large and x small
        return x * (grad * rstd).mul_(rstd).mul_(rstd).div_(-x.shape[-1]), None


def reference(x: Tensor, weight: Tensor | None = None, *, eps: float) -> Tensor:
    """The same in plain PyTorch, differentiable, on any device."""
    if torch.compiler.is_compiling():  # a compiler fuses the steps, and derives the gradient from them
        wide = upcast(x)
        out = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (out if weight is None else out * weight.to(wide.dtype)).to(x.dtype)
    if torch.is_grad_enabled():
        return _RmsNorm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]
    if not x.numel():  # as entries are when most single tokens are decoded
        return x
    return _normalised(x, weight, eps)[0]


def _normalised(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised x and its 1 / sqrt(mean(x^2) + eps), [..., 1] in at least float32."""
    wide = upcast(x)
    rstd = _mean_square(wide).add_(eps).rsqrt_()
    out = wide * rstd
    return (out if weight is None else out.mul_(weight)).to(x.dtype), rstd


def _mean_square(x: Tensor) -> Tensor:
    """The mean square along the last dim: [..., 1]."""
    if x.numel() < LARGE or x.shape[-1] % PIECE:
        return x.square().mean(-1, keepdim=True)
    # The norm of a piece writes no squares, a pass over memory less; pieces are short, so that sums stay exact
    norms = torch.linalg.vector_norm(x.unflatten(-1, (-1, PIECE)), dim=-1)
    return norms.square_().mean(-1, keepdim=True).div_(PIECE)


class _RmsNorm(torch.autograd.Function):
    """The reference; keeps x as it came, and its gradient takes half the time of a derived one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        out, rstd = _normalised(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, rstd = ctx.saved_tensors
        rows, scale = upcast(x).reshape(-1, x.shape[-1]), rstd.reshape(-1)
        upstream = upcast(grad).reshape(rows.shape)
        gain = rows.new_ones(x.shape[-1]) if weight is None else weight.to(rows.dtype)
        products = upstream * rows  # what both gradients need are products of this matrix and a vector
        dweight = products.mT.mv(scale).to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None
        # Scaled twice, one after the other: the cube would overflow where the gradient is large and x small
        along = products.mv(gain).mul_(scale).mul_(scale).div_(-x.shape[-1])
        dx = (upstream * gain).addcmul_(rows, along.unsqueeze(-1)).mul_(scale.unsqueeze(-1))
        return dx.reshape(x.shape).to(x.dtype), dweight, None


@jit
def _forward_kernel(
    x,
    weight,
    out,
    rstd,
    rows,
    x_stride,
    eps,
    D: tl.constexpr,
    X_PACKED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out [rows, D] and rstd [rows] = 1 / sqrt(mean(x^2) + eps), a tile of whole rows per program."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_D)
    row_mask = row < rows
    mask = row_mask[:, None]
    if BLOCK_D != D:
        mask = mask & (col < D)[None, :]
    packed = row.to(tl.int64)[:, None] * D + col[None, :]
    place = packed if X_PACKED else row.to(tl.int64)[:, None] * x_stride + col[None, :]

    values = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=1) * (1.0 / D) + eps)
    gain = 1.0 if weight is None else tl.load(weight + col, mask=col < D, other=0.0).to(tl.float32)[None, :]
    tl.store(out + packed, (values * scale[:, None] * gain).to(out.dtype.element_ty), mask=mask)
    tl.store(rstd + row, scale, mask=row_mask)


@jit
def _backward_kernel(
    grad,
    x,
    weight,
    rstd,
    dx,
    partial,
    rows,
    grad_stride,
    x_stride,
    D: tl.constexpr,
    GRAD_PACKED: tl.constexpr,
    X_PACKED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dx [rows, D], and each program's share of dweight, partial [programs, D] (none if None)."""
    col = tl.arange(0, BLOCK_D)
    gain = 1.0 if weight is None else tl.load(weight + col, mask=col < D, other=0.0).to(tl.float32)[None, :]
    share = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        row_mask = row < rows
        mask = row_mask[:, None]
        if BLOCK_D != D:
            mask = mask & (col < D)[None, :]
        packed = row.to(tl.int64)[:, None] * D + col[None, :]
        x_place = packed if X_PACKED else row.to(tl.int64)[:, None] * x_stride + col[None, :]
        grad_place = packed if GRAD_PACKED else row.to(tl.int64)[:, None] * grad_stride + col[None, :]

        scale = tl.load(rstd + row, mask=row_mask, other=0.0)[:, None]
        # Normalised before it meets the gradient: rstd^3 would overflow where the gradient is large and x small.
        unit = tl.load(x + x_place, mask=mask, other=0.0).to(tl.float32) * scale
        upstream = tl.load(grad + grad_place, mask=mask, other=0.0).to(tl.float32)
        if partial is not None:
            share += upstream * unit
        upstream = upstream * gain
        along = tl.sum(upstream * unit, axis=1, keep_dims=True) * (1.0 / D)
        tl.store(dx + packed, (scale * (upstream - unit * along)).to(dx.dtype.element_ty), mask=mask)
    if partial is not None:
        tl.store(partial + tl.program_id(0) * D + col, tl.sum(share, axis=0), mask=col < D)


@jit
def _wide_backward_kernel(
    grad,
    x,
    weight,
    rstd,
    dx,
    partial,
    rows,
    grad_stride,
    x_stride,
    D: tl.constexpr,
    GRAD_PACKED: tl.constexpr,
    X_PACKED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The same for wide rows: each is walked twice in chunks, the second time out of cache."""
    program = tl.program_id(0)
    x_step = D if X_PACKED else x_stride
    grad_step = D if GRAD_PACKED else grad_stride
    for number in range(program, rows, tl.num_programs(0)):
        row = tl.cast(number, tl.int64)
        scale = tl.load(rstd + row)
        products = tl.zeros([BLOCK_D], tl.float32)
        for start in range(0, D, BLOCK_D):
            col = start + tl.arange(0, BLOCK_D)
            mask = (col < D) if D % BLOCK_D != 0 else tl.full([BLOCK_D], True, tl.int1)
            unit = tl.load(x + row * x_step + col, mask=mask, other=0.0).to(tl.float32) * scale
            upstream = tl.load(grad + row * grad_step + col, mask=mask, other=0.0).to(tl.float32)
            gain = 1.0 if weight is None else tl.load(weight + col, mask=mask, other=0.0).to(tl.float32)
            products += upstream * gain * unit
        along = tl.sum(products, axis=0) * (1.0 / D)
        for start in range(0, D, BLOCK_D):
            col = start + tl.arange(0, BLOCK_D)
            mask = (col < D) if D % BLOCK_D != 0 else tl.full([BLOCK_D], True, tl.int1)
            unit = tl.load(x + row * x_step + col, mask=mask, other=0.0).to(tl.float32) * scale
            upstream = tl.load(grad + row * grad_step + col, mask=mask, other=0.0).to(tl.float32)
            gain = 1.0 if weight is None else tl.load(weight + col, mask=mask, other=0.0).to(tl.float32)
            down = scale * (upstream * gain - unit * along)
            tl.store(dx + row * D + col, down.to(dx.dtype.element_ty), mask=mask)
            if partial is not None:
                share = partial + program * D + col
                before = tl.where(number == program, 0.0, tl.load(share, mask=mask, other=0.0))
                tl.store(share, before + upstream * unit, mask=mask)
        # The next row reads the shares that this one wrote.
        tl.debug_barrier()


@jit
def _sum_kernel(partial, programs, dweight, D: tl.constexpr, BLOCK: tl.constexpr):
    """dweight [D] of the shares of programs."""
    add_up(partial, programs, D, dweight, tl.program_id(0), BLOCK)


WIDE_TILE = {"BLOCK_D": 4096, "num_warps": 8, **FUSED_MULTIPLY_ADD}
SUM_TILE = {"BLOCK": 256, "num_warps": 4, **FUSED_MULTIPLY_ADD}


def tile(width: int, elements: int = 2048) -> dict[str, int]:
    """The tile of a program over rows of this width: whole rows, 16 elements a thread where a row allows it."""
    block = next_power_of_2(width)
    rows = max(1, elements // block)
    return {
        "BLOCK_ROWS": rows,
        "BLOCK_D": block,
        "num_warps": min(16, max(4, rows * block // 512)),
        **FUSED_MULTIPLY_ADD,
    }


@operator
def rms_norm_forward(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised x and its 1 / sqrt(mean(x^2) + eps), float32 [...]."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rstd = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    if x.numel():
        width, flat, block = x.shape[-1], as_rows(x), tile(x.shape[-1])
        rows, stride = flat.shape[0], flat.stride(0)
        weight = None if weight is None else weight.contiguous()
        with on_device(x):
            _forward_kernel[(-(-rows // block["BLOCK_ROWS"]),)](
                flat, weight, out, rstd, rows, stride, eps, D=width, X_PACKED=stride == width, **block
            )
    return out, rstd


@rms_norm_forward.register_fake
def _(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.float32)


@operator
def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, with_weight: bool
) -> tuple[Tensor, Tensor]:
    """dx, and dweight if it is asked for (else an empty tensor).

    dweight is summed in a fixed order, over each program's rows, then over programs: equal inputs on equal GPUs give
    equal bits.
    """
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    made = {"dtype": torch.float32 if weight is None else weight.dtype, "device": x.device}
    dweight = torch.empty(0, **made)
    if with_weight:
        dweight = (torch.empty if x.numel() else torch.zeros)(x.shape[-1], **made)
    if x.numel():
        width, flat, upstream = x.shape[-1], as_rows(x), as_rows(grad)
        rows, x_stride, grad_stride = flat.shape[0], flat.stride(0), upstream.stride(0)
        # Shares are written and read again: a program has a processor to itself, and at least two tiles of 8192
        # numbers. The share of a single one is the sum. Of a wide row it adds to memory, so it has a single row
        if width <= WIDEST_WHOLE_BACKWARD:
            kernel, block = _backward_kernel, tile(width, 8192)
            least = 32 if rows <= 4 * FEW else 2 * block["BLOCK_ROWS"]
            programs = 1 if rows <= FEW else min(-(-rows // least), processors(x.device))
        else:
            kernel, block = _wide_backward_kernel, WIDE_TILE
            programs = min(rows, 2 if rows <= FEW else processors(x.device))
        partial = shares_of(dweight, programs) if with_weight else None
        packed = {"GRAD_PACKED": grad_stride == width, "X_PACKED": x_stride == width}
        weight = None if weight is None else weight.contiguous()
        with on_device(x):
            kernel[(programs,)](
                upstream, flat, weight, rstd, dx, partial, rows, grad_stride, x_stride, D=width, **packed, **block
            )
            if partial is not None and programs > 1:
                _sum_kernel[(-(-width // SUM_TILE["BLOCK"]),)](partial, programs, dweight, D=width, **SUM_TILE)
    return dx, dweight


@rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, with_weight: bool) -> tuple[Tensor, Tensor]:
    dtype = torch.float32 if weight is None else weight.dtype
    return x.new_empty(x.shape), x.new_empty(x.shape[-1] if with_weight else 0, dtype=dtype)


def _setup(ctx: FunctionCtx | Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # zeros for the second output would be a launch
    ctx.save_for_backward(x, weight, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
    x, weight, rstd = ctx.saved_tensors
    dx, dweight = rms_norm_backward(grad, x, weight, rstd, weight is not None and ctx.needs_input_grad[1])
    return dx, dweight if ctx.needs_input_grad[1] else None, None


rms_norm_forward.register_autograd(_backward, setup_context=_setup)
