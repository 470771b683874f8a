"""How checkpoints store numbers: as they are, as FP8 in blocks (DeepSeek), as FP4 (DeepSeek-V4), as MXFP4 (gpt-oss).

A quantised tensor is a pair of the file: the numbers and their scales. `stored` finds the pairs; a `Stored` decodes one
matrix at a time. A format is an entry of `FORMATS` and a function that decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .checkpoint import Checkpoint, Header

Block = tuple[int, int]
"""Rows and columns of a matrix that share a scale."""
SCALES = frozenset({"F32", "BF16", "F8_E8M0", "U8"})
"""What scales of blocks are stored as; U8 has the bits of E8M0."""
PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
"""Floating point that is read as it is; narrower numbers mean nothing without scales."""
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The value of each of the 16 codes of E2M1 (OCP Microscaling Formats 1.0, section 5.3.3)."""
FP4_BLOCK = 32
"""Numbers of a row that share a scale in FP4 (OCP Microscaling Formats 1.0, section 5.1)."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor of a checkpoint, whatever its format."""

    numbers: str  # the name in the files of the tensor, or of its quantised numbers
    shape: tuple[int, ...]  # of the decoded tensor
    floating: bool = True
    scales: str | None = None
    decode: Callable[[Tensor, Tensor], Tensor] | None = None  # numbers and scales of one matrix -> the matrix, float32
    problem: str | None = None  # why it cannot be read

    def copy_to(self, target: Tensor, checkpoint: Checkpoint) -> None:
        """Fills target (of this shape), with at most one decoded matrix in memory beside it."""
        if self.scales is None or self.decode is None:
            target.copy_(checkpoint.read(self.numbers))
        elif target.dim() == 2:
            target.copy_(self.decode(checkpoint.read(self.numbers), checkpoint.read(self.scales)))
        else:
            for row, matrix in enumerate(target):
                numbers, scales = checkpoint.read(self.numbers, row), checkpoint.read(self.scales, row)
                matrix.copy_(self.decode(numbers, scales))


def stored(headers: Mapping[str, Header], block: Block) -> dict[str, Stored]:
    """Every tensor of a checkpoint by its name, scales joined to what they scale."""
    found = dict(next(filter(None, (read(name, headers, block) for read in FORMATS))) for name in headers)
    scales = {tensor.scales for tensor in found.values()}
    return {name: tensor for name, tensor in found.items() if name not in scales}


def _fp8(name: str, headers: Mapping[str, Header], block: Block) -> tuple[str, Stored] | None:
    """A matrix, or a stack of matrices, of FP8 numbers with a scale for each block of them."""
    shape = headers[name].shape
    if headers[name].dtype != "F8_E4M3":
        return None
    candidates = (f"{name}_scale_inv", f"{name.removesuffix('.weight')}.scale")
    scales = next((s for s in candidates if s in headers), None)
    problem = f"{name} is F8_E4M3, and there is no {candidates[0]}"
    if scales is not None:
        problem = _fp8_problem(name, headers[name], headers[scales], block)
    decode = partial(fp8_blocks, block=block)
    return name, Stored(numbers=name, shape=shape, scales=scales, decode=decode, problem=problem)


def _fp4(name: str, headers: Mapping[str, Header], block: Block) -> tuple[str, Stored] | None:
    """A matrix, or a stack of matrices, of FP4 numbers, two to a byte, with a scale for each block of a row."""
    dtype, shape = headers[name]
    scales = f"{name.removesuffix('.weight')}.scale"
    if dtype not in {"I8", "U8"} or scales not in headers or scales == name:
        return None
    problem = _fp4_problem(name, headers[name], headers[scales])
    wide = shape if problem else (*shape[:-1], 2 * shape[-1])
    return name, Stored(numbers=name, shape=wide, scales=scales, decode=fp4_blocks, problem=problem)


def _mxfp4(name: str, headers: Mapping[str, Header], block: Block) -> tuple[str, Stored] | None:
    """A stack of matrices in FP4, whose scales stand beside them."""
    base = name.removesuffix("_blocks")
    scales = f"{base}_scales"
    if base == name or scales not in headers or base in headers:
        return None
    numbers = headers[name]
    problem = _mxfp4_problem(name, numbers, headers[scales])
    experts, rows, groups, half = (0, 0, 0, 0) if problem else numbers.shape
    shape = (experts, groups * half * 2, rows)
    return base, Stored(numbers=name, shape=shape, scales=scales, decode=mxfp4, problem=problem)


def _plain(name: str, headers: Mapping[str, Header], block: Block) -> tuple[str, Stored]:
    """A tensor as it is."""
    dtype, shape = headers[name]
    floating = dtype.startswith(("F", "BF"))
    problem = f"{name} is {dtype}, which this package does not read" if floating and dtype not in PLAIN else None
    return name, Stored(numbers=name, shape=shape, floating=floating, problem=problem)


FORMATS = (_fp8, _fp4, _mxfp4, _plain)
"""Each says what the tensor of a name is and what it is called decoded, or None where it is of another format."""


def fp8_blocks(numbers: Tensor, scales: Tensor, block: Block) -> Tensor:
    """The matrix [R, C] in float32: each block of numbers times its scale [ceil(R / rows), ceil(C / columns)].

    Scales multiply, whatever their name says (`weight_scale_inv`, DeepSeek-V3 README_WEIGHTS); blocks at the edges are
    smaller. Scales are float32, or powers of two as E8M0 or its bits.
    """
    rows, columns = block
    wide = numbers.half().float()  # exact; torch casts FP8 to float32 at half the speed of these two
    for band, scale in zip(wide.split(rows), _float(scales), strict=True):
        band.mul_(scale.repeat_interleave(columns)[: band.shape[1]])
    return wide


def fp4_blocks(numbers: Tensor, scales: Tensor) -> Tensor:
    """The matrix [O, I] in float32 of bytes [O, I / 2] (two codes each, low half first), scales [O, ceil(I / 32)].

    DeepSeek-V4 stores its experts so; the last block of a row may be smaller.
    """
    values, factors = _codes(numbers), _float(scales)
    full = values.shape[-1] // FP4_BLOCK
    values[..., : full * FP4_BLOCK].unflatten(-1, (full, FP4_BLOCK)).mul_(factors[..., :full, None])
    values[..., full * FP4_BLOCK :].mul_(factors[..., full:])
    return values


def mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """The matrix [I, O] in float32 of blocks [O, I / 32, 16] (two codes a byte, low half first), scales [O, I / 32].

    gpt-oss stores its experts so (OCP Microscaling Formats 1.0), with rows for outputs; its parameters have columns.
    """
    return _codes(blocks).mul_(_float(scales)[..., None]).flatten(-2).T


def _codes(packed: Tensor) -> Tensor:
    """The value of every FP4 code [..., 2 N] in bytes [..., N], low half first, in float32."""
    byte = torch.arange(256)
    pairs = torch.tensor(FP4)[torch.stack((byte & 15, byte >> 4), -1)]
    found = pairs.index_select(0, packed.view(torch.uint8).flatten().int())
    return found.view(*packed.shape[:-1], 2 * packed.shape[-1])


def _float(scales: Tensor) -> Tensor:
    return (scales.view(torch.float8_e8m0fnu) if scales.dtype == torch.uint8 else scales).float()


def _fp8_problem(name: str, header: Header, scale: Header, block: Block) -> str | None:
    """What keeps block-FP8 numbers from being read."""
    if len(header.shape) not in {2, 3}:
        return f"{name} is F8_E4M3 {list(header.shape)}, neither a matrix nor a stack of them"
    *stack, rows, columns = header.shape
    want = (*stack, -(-rows // block[0]), -(-columns // block[1]))
    what = f"{name} is F8_E4M3 {list(header.shape)} in blocks of {block[0]} x {block[1]}"
    if scale.dtype not in SCALES or scale.shape != want:
        return f"{what}, and its scales are {scale.dtype} {list(scale.shape)}, not F32 or F8_E8M0 {list(want)}"
    if stack and name.endswith("gate_up_proj") and rows // 2 % block[0]:
        return f"{what}: one block would hold rows of both gate and up, so its scales have no single meaning"
    return None


def _fp4_problem(name: str, header: Header, scale: Header) -> str | None:
    """What keeps FP4 numbers from being read."""
    what = f"{name} is {header.dtype} {list(header.shape)}"
    if len(header.shape) not in {2, 3}:
        return f"{what}, neither a matrix nor a stack of them"
    *rows, half = header.shape
    want = (*rows, -(-2 * half // FP4_BLOCK))
    if scale.dtype not in SCALES or scale.shape != want:
        where = f"{scale.dtype} {list(scale.shape)}, not F32 or F8_E8M0 {list(want)}"
        return f"{what}, two FP4 numbers to a byte, and its scales are {where}"
    return None


def _mxfp4_problem(name: str, header: Header, scale: Header) -> str | None:
    """What keeps MXFP4 numbers from being read."""
    if header.dtype == scale.dtype == "U8" and header.shape == (*scale.shape, 16) and len(scale.shape) == 3:
        return None
    return (
        f"{name} is {header.dtype} {list(header.shape)} with scales {scale.dtype} {list(scale.shape)}: MXFP4 is U8"
        " [experts, rows, groups, 16] with scales U8 [experts, rows, groups]"
    )
