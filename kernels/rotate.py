"""Rotary positions applied to channels in pairs (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import on_cpu
from .dispatch import use_triton
from .library import FUSED_MULTIPLY_ADD, jit, next_power_of_2, on_device, operator, tl
from .upcast import upcast

Pairs = Literal["half", "interleaved"]
End = Literal["first", "last"]


def rotate(x: Tensor, angles: Tensor, *, pairs: Pairs = "half", end: End = "first", inverse: bool = False) -> Tensor:
    """x [B, S, H, D] or [B, S, D] with R of its channels rotated, the others passed through: the shape and dtype of x.

    angles [B or 1, S, R / 2, 2] holds the cosine and sine of each pair; they get no gradient. ``pairs``: channels
    (i, i + R / 2) of the rotated ones ("half", as Llama) or (2i, 2i + 1) ("interleaved", as DeepSeek), each in its
    place. ``end`` says which R of the D channels are rotated; ``inverse`` rotates back. Computed in at least float32.
    """
    _check(x, angles, pairs, end)
    out = on_cpu.rotate(x, angles, neighbours=pairs == "interleaved", last=end == "last", inverse=inverse)
    if out is not None:
        return out
    if use_triton(x):
        return rotate_channels(x, angles, pairs, end, inverse)
    return reference(x, angles, pairs=pairs, end=end, inverse=inverse)


def reference(x: Tensor, angles: Tensor, *, pairs: Pairs = "half", end: End = "first", inverse: bool = False) -> Tensor:
    """The same in plain PyTorch, differentiable, on any device."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Rotate.apply(x, angles, pairs, end, inverse)  # pyright: ignore[reportReturnType]
    if not torch.compiler.is_compiling() and x.numel() == 0:  # as entries are when most single tokens are decoded
        return x
    return _rotated(x, angles.detach(), pairs, end, inverse)


class _Rotate(torch.autograd.Function):
    """The reference; its gradient is the upstream one rotated back, and needs nothing of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor, pairs: Pairs, end: End, inverse: bool) -> Tensor:
        ctx.save_for_backward(angles)
        ctx.pairs, ctx.end, ctx.inverse = pairs, end, inverse
        return _rotated(x, angles, pairs, end, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (angles,) = ctx.saved_tensors
        return _rotated(grad, angles, ctx.pairs, ctx.end, not ctx.inverse), None, None, None, None


def _rotated(x: Tensor, angles: Tensor, pairs: Pairs, end: End, inverse: bool) -> Tensor:
    """What `rotate` gives."""
    width, rotated = x.shape[-1], 2 * angles.shape[-2]
    if x.dim() == 4:
        angles = angles.unsqueeze(-3)
    turning = x
    if rotated != width:
        begin = 0 if end == "first" else width - rotated
        if pairs == "interleaved" and _turns_in_place(x):
            out = x.clone(memory_format=torch.contiguous_format)
            torch.view_as_complex(out[..., begin : begin + rotated].unflatten(-1, (-1, 2))).mul_(
                _turns(angles.to(x.dtype), inverse)
            )
            return out
        turning = x[..., begin : begin + rotated]
    turning = upcast(turning)
    angles = angles.to(turning.dtype)
    turn = _turn_halves if pairs == "half" else _turn_neighbours
    turned = turn(turning, angles, inverse).to(x.dtype)
    if rotated == width:
        return turned
    if end == "first":
        return torch.cat((turned, x[..., rotated:]), dim=-1)
    return torch.cat((x[..., : width - rotated], turned), dim=-1)


def _turn_halves(x: Tensor, angles: Tensor, inverse: bool) -> Tensor:
    """x [..., R] with channels i and i + R / 2 turned by angles [..., R / 2, 2]."""
    cos, sin = angles.unbind(-1)
    if inverse:
        sin = -sin
    if torch.compiler.is_compiling():
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    # The same sums over whole rows and in place: half the passes where no compiler fuses them
    turned = x * torch.cat((cos, cos), dim=-1)
    return turned.add_(x.roll(angles.shape[-2], -1).mul_(torch.cat((-sin, sin), dim=-1)))


def _turn_neighbours(x: Tensor, angles: Tensor, inverse: bool) -> Tensor:
    """x [..., R] with channels 2i and 2i + 1 turned by angles [..., R / 2, 2]."""
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = (x[..., 0::2], x[..., 1::2]), angles.unbind(-1)
        if inverse:
            sin = -sin
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    # A pair is a complex number: the same sums in one pass
    turned = _complex(x.unflatten(-1, (-1, 2))) * _turns(angles, inverse)
    return torch.view_as_real(turned).flatten(-2)


def _turns_in_place(x: Tensor) -> bool:
    """Whether pairs of channels of a copy of x can be taken for complex numbers where they lie."""
    wide = x.dtype in (torch.float32, torch.float64)
    return wide and x.shape[-1] % 2 == 0 and not torch.compiler.is_compiling()


def _turns(angles: Tensor, inverse: bool) -> Tensor:
    """angles [..., R / 2, 2] as complex numbers [..., R / 2]."""
    turns = _complex(angles)
    return turns.conj_physical() if inverse else turns


def _complex(x: Tensor) -> Tensor:
    """x [..., 2] as complex numbers [...], where it lies if pairs stand at even places."""
    *steps, step = x.stride()
    in_place = step == 1 and x.storage_offset() % 2 == 0 and all(n % 2 == 0 for n in steps)
    return torch.view_as_complex(x if in_place else x.clone(memory_format=torch.contiguous_format))


def _check(x: Tensor, angles: Tensor, pairs: str, end: str) -> None:
    if pairs not in ("half", "interleaved") or end not in ("first", "last"):
        raise ValueError(
            f"rotate knows pairs 'half' and 'interleaved', ends 'first' and 'last', not {pairs!r}, {end!r}"
        )
    fits = x.dim() in (3, 4) and angles.dim() == 4 and angles.shape[-1] == 2 and 2 * angles.shape[2] <= x.shape[-1]
    if not fits or angles.shape[1] != x.shape[1] or angles.shape[0] not in (1, x.shape[0]):
        raise ValueError(f"angles {list(angles.shape)} do not fit x {list(x.shape)}: [B or 1, S, R / 2, 2] with R <= D")


@jit
def _kernel(
    x,
    angles,
    out,
    rows,
    tokens_of_angles,
    token_stride,
    head_stride,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTATED: tl.constexpr,
    ROTATED_AT: tl.constexpr,
    PASSED_AT: tl.constexpr,
    HALF: tl.constexpr,
    INVERSE: tl.constexpr,
    X_PACKED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ROTATED: tl.constexpr,
    BLOCK_PASSED: tl.constexpr,
):
    """out [rows, WIDTH], a row per token and head, a tile of rows per program."""
    block_pairs: tl.constexpr = BLOCK_ROTATED // 2

    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    token = row // HEADS
    row_mask = (row < rows)[:, None]
    packed = row.to(tl.int64)[:, None] * WIDTH
    place = packed
    if not X_PACKED:
        place = (token.to(tl.int64) * token_stride + (row % HEADS).to(tl.int64) * head_stride)[:, None]

    col = tl.arange(0, BLOCK_ROTATED)[None, :]
    mask = row_mask
    if BLOCK_ROTATED != ROTATED:
        mask = mask & (col < ROTATED)
    turn = tl.load(angles + (token % tokens_of_angles).to(tl.int64)[:, None] * ROTATED + col, mask=mask, other=0.0)
    cos, sin = tl.split(tl.reshape(turn, [BLOCK_ROWS, block_pairs, 2]))
    if INVERSE:
        sin = -sin
    if HALF:
        pair = tl.arange(0, block_pairs)[None, :] + ROTATED_AT
        pair_mask = row_mask
        if BLOCK_ROTATED != ROTATED:
            pair_mask = row_mask & (pair < ROTATED_AT + ROTATED // 2)
        a = tl.load(x + place + pair, mask=pair_mask, other=0.0).to(tl.float32)
        b = tl.load(x + place + pair + ROTATED // 2, mask=pair_mask, other=0.0).to(tl.float32)
        tl.store(out + packed + pair, (a * cos - b * sin).to(out.dtype.element_ty), mask=pair_mask)
        tl.store(out + packed + pair + ROTATED // 2, (b * cos + a * sin).to(out.dtype.element_ty), mask=pair_mask)
    else:
        both = tl.load(x + place + ROTATED_AT + col, mask=mask, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(both, [BLOCK_ROWS, block_pairs, 2]))
        turned = tl.reshape(tl.join(a * cos - b * sin, b * cos + a * sin), [BLOCK_ROWS, BLOCK_ROTATED])
        tl.store(out + packed + ROTATED_AT + col, turned.to(out.dtype.element_ty), mask=mask)
    if ROTATED != WIDTH:
        rest = tl.arange(0, BLOCK_PASSED)[None, :]
        rest_mask = row_mask
        if BLOCK_PASSED != WIDTH - ROTATED:
            rest_mask = row_mask & (rest < WIDTH - ROTATED)
        kept = tl.load(x + place + PASSED_AT + rest, mask=rest_mask)
        tl.store(out + packed + PASSED_AT + rest, kept, mask=rest_mask)


def tile(width: int, rotated: int) -> dict[str, int]:
    """The tile of a program over heads of this width: whole rows, of 2048 channels or 1024 rotated ones or more."""
    block, block_rotated = next_power_of_2(width), max(2, next_power_of_2(rotated))
    return {
        "BLOCK_ROWS": max(1, 2048 // block, min(16, 1024 // block_rotated)),
        "BLOCK_ROTATED": block_rotated,
        "BLOCK_PASSED": next_power_of_2(max(1, width - rotated)),
        "num_warps": min(16, max(4, block // 512)),
        **FUSED_MULTIPLY_ADD,
    }


@operator
def rotate_channels(x: Tensor, angles: Tensor, pairs: str, end: str, inverse: bool) -> Tensor:
    """x with its channels rotated."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        heads, width, rotated = (x.shape[2] if x.dim() == 4 else 1), x.shape[-1], 2 * angles.shape[2]
        flat = x.reshape(-1, heads, width)
        flat = flat if flat.stride(-1) == 1 else flat.contiguous()
        block, rows = tile(width, rotated), flat.shape[0] * heads
        angles = angles.to(torch.float32).contiguous()
        with on_device(x):
            _kernel[(-(-rows // block["BLOCK_ROWS"]),)](
                flat,
                angles,
                out,
                rows,
                angles.shape[0] * angles.shape[1],
                *flat.stride()[:2],
                HEADS=heads,
                WIDTH=width,
                ROTATED=rotated,
                ROTATED_AT=width - rotated if end == "last" else 0,
                PASSED_AT=0 if end == "last" else rotated,
                HALF=pairs == "half",
                INVERSE=inverse,
                X_PACKED=flat.is_contiguous(),
                **block,
            )
    return out


@rotate_channels.register_fake
def _(x: Tensor, angles: Tensor, pairs: str, end: str, inverse: bool) -> Tensor:
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, angles, ctx.pairs, ctx.end, ctx.inverse = inputs
    ctx.save_for_backward(angles)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    (angles,) = ctx.saved_tensors
    return rotate_channels(grad, angles, ctx.pairs, ctx.end, not ctx.inverse), None, None, None, None


rotate_channels.register_autograd(_backward, setup_context=_setup)
