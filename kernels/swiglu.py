"""The gate of a gated feed-forward: silu(gate) * up (Shazeer 2020, arXiv:2002.05202), clamped if asked for.

The clamp is that of DeepSeek-V4 and gpt-oss: large activations of either branch are cut before they meet. A steeper
sigmoid (alpha) and an open gate's shift of the other branch are those of gpt-oss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import on_cpu
from .dispatch import use_triton
from .library import FUSED_MULTIPLY_ADD, as_rows, jit, largest_power_of_2_in, next_power_of_2, on_device, operator, tl
from .upcast import upcast


def swiglu(gate: Tensor, up: Tensor, *, limit: float | None = None, alpha: float = 1.0, shift: float = 0.0) -> Tensor:
    """(up + shift) * gate * sigmoid(alpha * gate), which is silu(gate) * up unless told otherwise.

    gate and up [..., I] of one dtype: the same shape and dtype, computed in at least float32.

    With a limit, gate is first cut to at most limit and up to [-limit, limit]; no gradient passes a cut value.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(
            f"swiglu needs equal operands, not {gate.dtype} {list(gate.shape)} and {up.dtype} {list(up.shape)}"
        )
    if (out := on_cpu.swiglu(gate, up, limit, alpha, shift)) is not None:
        return out
    if use_triton(gate, up):
        return swiglu_forward(gate, up, limit, alpha, shift)
    return reference(gate, up, limit=limit, alpha=alpha, shift=shift)


def reference(
    gate: Tensor, up: Tensor, *, limit: float | None = None, alpha: float = 1.0, shift: float = 0.0
) -> Tensor:
    """The same in plain PyTorch, differentiable, on any device."""
    left, right = upcast(gate), upcast(up)
    if limit is not None:
        left, right = left.clamp(max=limit), right.clamp(-limit, limit)
    opened = F.silu(left) if alpha == 1 else left * torch.sigmoid(alpha * left)
    right = right + shift if shift else right
    # Without a gradient nobody reads the opened gate again: one tensor of this size less
    return (opened * right if torch.is_grad_enabled() else opened.mul_(right)).to(gate.dtype)


@jit
def _forward_kernel(
    gate,
    up,
    out,
    rows,
    gate_stride,
    up_stride,
    limit,
    ALPHA: tl.constexpr,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    GATE_PACKED: tl.constexpr,
    UP_PACKED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """out [rows, WIDTH], one tile per program, tiles of a row side by side."""
    tiles: tl.constexpr = (WIDTH + BLOCK_COLS - 1) // BLOCK_COLS
    row = tl.program_id(0) // tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.program_id(0) % tiles * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    mask = (row < rows)[:, None]
    if WIDTH % BLOCK_COLS != 0:
        mask = mask & (col < WIDTH)[None, :]
    packed = row.to(tl.int64)[:, None] * WIDTH + col[None, :]
    gate_place = packed if GATE_PACKED else row.to(tl.int64)[:, None] * gate_stride + col[None, :]
    up_place = packed if UP_PACKED else row.to(tl.int64)[:, None] * up_stride + col[None, :]

    left = tl.load(gate + gate_place, mask=mask, other=0.0).to(tl.float32)
    right = tl.load(up + up_place, mask=mask, other=0.0).to(tl.float32)
    if limit is not None:
        # Written as selections, not as min and max: those would turn NaN into the limit.
        left = tl.where(left > limit, limit, left)
        right = tl.where(right > limit, limit, tl.where(right < -limit, -limit, right))
    tl.store(out + packed, (left * tl.sigmoid(ALPHA * left) * (right + SHIFT)).to(out.dtype.element_ty), mask=mask)


@jit
def _backward_kernel(
    grad,
    gate,
    up,
    dgate,
    dup,
    rows,
    grad_stride,
    gate_stride,
    up_stride,
    limit,
    ALPHA: tl.constexpr,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    GRAD_PACKED: tl.constexpr,
    GATE_PACKED: tl.constexpr,
    UP_PACKED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """dgate and dup [rows, WIDTH], tiled as the forward kernel."""
    tiles: tl.constexpr = (WIDTH + BLOCK_COLS - 1) // BLOCK_COLS
    row = tl.program_id(0) // tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.program_id(0) % tiles * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    mask = (row < rows)[:, None]
    if WIDTH % BLOCK_COLS != 0:
        mask = mask & (col < WIDTH)[None, :]
    packed = row.to(tl.int64)[:, None] * WIDTH + col[None, :]
    grad_place = packed if GRAD_PACKED else row.to(tl.int64)[:, None] * grad_stride + col[None, :]
    gate_place = packed if GATE_PACKED else row.to(tl.int64)[:, None] * gate_stride + col[None, :]
    up_place = packed if UP_PACKED else row.to(tl.int64)[:, None] * up_stride + col[None, :]

    upstream = tl.load(grad + grad_place, mask=mask, other=0.0).to(tl.float32)
    left = tl.load(gate + gate_place, mask=mask, other=0.0).to(tl.float32)
    right = tl.load(up + up_place, mask=mask, other=0.0).to(tl.float32)
    left_passes = upstream
    right_passes = upstream
    if limit is not None:
        left_passes = tl.where(left > limit, 0.0, upstream)
        right_passes = tl.where((right > limit) | (right < -limit), 0.0, upstream)
        left = tl.where(left > limit, limit, left)
        right = tl.where(right > limit, limit, tl.where(right < -limit, -limit, right))
    open_ = tl.sigmoid(ALPHA * left)
    slope = open_ * (1.0 + ALPHA * left * (1.0 - open_))
    tl.store(dgate + packed, (left_passes * ((right + SHIFT) * slope)).to(dgate.dtype.element_ty), mask=mask)
    tl.store(dup + packed, (right_passes * (left * open_)).to(dup.dtype.element_ty), mask=mask)


def tile(width: int) -> dict[str, int]:
    """The tile of a program over rows of this width: 2048 elements, of columns that divide the width if they can."""
    cols = min(2048, largest_power_of_2_in(width))
    if cols < 128:
        cols = min(1024, next_power_of_2(width))
    return {"BLOCK_ROWS": 2048 // cols, "BLOCK_COLS": cols, "num_warps": 4, **FUSED_MULTIPLY_ADD}


def _grid(rows: int, width: int, block: dict[str, int]) -> tuple[int]:
    return (-(-rows // block["BLOCK_ROWS"]) * -(-width // block["BLOCK_COLS"]),)


@operator
def swiglu_forward(gate: Tensor, up: Tensor, limit: float | None, alpha: float = 1.0, shift: float = 0.0) -> Tensor:
    """(up + shift) * gate * sigmoid(alpha * gate)."""
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if gate.numel():
        width, block, left, right = gate.shape[-1], tile(gate.shape[-1]), as_rows(gate), as_rows(up)
        rows, strides = left.shape[0], (left.stride(0), right.stride(0))
        packed = {"GATE_PACKED": strides[0] == width, "UP_PACKED": strides[1] == width}
        shape = {"ALPHA": alpha, "SHIFT": shift, "WIDTH": width}
        with on_device(gate):
            _forward_kernel[_grid(rows, width, block)](
                left, right, out, rows, *strides, limit, **shape, **packed, **block
            )
    return out


@swiglu_forward.register_fake
def _(gate: Tensor, up: Tensor, limit: float | None, alpha: float = 1.0, shift: float = 0.0) -> Tensor:
    return gate.new_empty(gate.shape)


@operator
def swiglu_backward(
    grad: Tensor, gate: Tensor, up: Tensor, limit: float | None, alpha: float = 1.0, shift: float = 0.0
) -> tuple[Tensor, Tensor]:
    """dgate and dup."""
    dgate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    dup = torch.empty_like(dgate)
    if gate.numel():
        width, block = gate.shape[-1], tile(gate.shape[-1])
        operands = (as_rows(grad), as_rows(gate), as_rows(up))
        rows, strides = operands[0].shape[0], [operand.stride(0) for operand in operands]
        packed = dict(zip(("GRAD_PACKED", "GATE_PACKED", "UP_PACKED"), (s == width for s in strides), strict=True))
        shape = {"ALPHA": alpha, "SHIFT": shift, "WIDTH": width}
        with on_device(gate):
            _backward_kernel[_grid(rows, width, block)](
                *operands, dgate, dup, rows, *strides, limit, **shape, **packed, **block
            )
    return dgate, dup


@swiglu_backward.register_fake
def _(
    grad: Tensor, gate: Tensor, up: Tensor, limit: float | None, alpha: float = 1.0, shift: float = 0.0
) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, *ctx.settings = inputs
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    return *swiglu_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


swiglu_forward.register_autograd(_backward, setup_context=_setup)
