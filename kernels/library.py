"""What every kernel file shares where it meets Triton and ``torch.library``.

Triton is optional: without it ``triton`` and ``tl`` are None, ``jit`` returns its function unchanged, and only
references run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

if TYPE_CHECKING:
    import triton.knobs
    import triton.language as tl
else:
    triton = tl = None
    with contextlib.suppress(ImportError):
        triton = importlib.import_module("triton")
        tl = importlib.import_module("triton.language")

# Read where the kernels are decorated: Triton decides there between compiling and interpreting them.
INTERPRETED: bool = triton is not None and bool(triton.knobs.runtime.interpret)

# Multiply-adds round once: the default of Triton up to 3.9, and no longer of 3.10, so it is said at every launch.
FUSED_MULTIPLY_ADD = {"enable_fp_fusion": True}


def in_a_name(package: str) -> str:
    """The path of a package as part of the name of an operator."""
    return re.sub(r"[^0-9A-Za-z_]", lambda c: f"u{ord(c[0]):x}", package.replace(".", "__"))


# Two generated packages may live in one process, each with its own copy of these files; operator names are global.
NAMESPACE = in_a_name(__package__ or "archc_kernels")


def jit(kernel: Callable[..., Any] | None = None, *, noinline: bool = False) -> Any:
    """The function as a Triton kernel, launched as ``kernel[grid](...)``; unchanged where there is no Triton.

    ``noinline``: it is one that kernels call, and stays one function in machine code.
    """
    if kernel is None:
        return functools.partial(jit, noinline=noinline)
    return kernel if triton is None else triton.jit(noinline=noinline)(kernel)


def operator(kernel_launcher: Callable[..., Any]) -> Any:
    """The function as an operator ``<package>::<name>`` known to PyTorch, opaque to its compiler, that mutates nothing.

    Register ``register_fake`` and ``register_autograd`` on the result.
    """
    name = f"{NAMESPACE}::{kernel_launcher.__name__.strip('_')}"
    return torch.library.custom_op(name, kernel_launcher, mutates_args=())


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context in which kernels launch on the device of x."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def as_rows(x: Tensor) -> Tensor:
    """x [..., D] as [rows, D] with adjacent channels: a view where rows lie at equal distances, else a copy."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


@functools.lru_cache
def processors(device: torch.device) -> int:
    """The number of multiprocessors of a GPU; a small number on the interpreter, where programs run one by one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@jit
def load_numbers(at, apart, N: tl.constexpr, inside=None):
    """N numbers from memory, ``apart`` from each other; zero where tokens are not ``inside``."""
    found = ()
    for i in tl.static_range(N):  # pyright: ignore[reportGeneralTypeIssues]
        if inside is None:
            found = found + (tl.load(at + i * apart),)  # noqa: RUF005 - Triton adds tuples, and unpacks none
        else:
            found = found + (tl.load(at + i * apart, mask=inside, other=0.0),)  # noqa: RUF005
    return found


@jit
def store_numbers(at, apart, numbers, inside=None):
    """Numbers to memory, ``apart`` from each other, those of tokens that are ``inside``."""
    for i in tl.static_range(len(numbers)):  # pyright: ignore[reportGeneralTypeIssues]
        if inside is None:
            tl.store(at + i * apart, numbers[i])
        else:
            tl.store(at + i * apart, numbers[i], mask=inside)


@jit
def add_to_shares(at, numbers, again, inside):
    """Adds up numbers of the tokens ``inside``: to what lies in memory if that is done ``again``, else to nothing."""
    for i in tl.static_range(len(numbers)):  # pyright: ignore[reportGeneralTypeIssues]
        before = tl.where(again, tl.load(at + i), 0.0)
        tl.store(at + i, before + tl.sum(tl.where(inside, numbers[i], 0.0), 0))


@jit
def add_to_share(at, x, again, inside):
    """Adds up x [TILE, ...] of tokens ``inside``: to what lies in memory if that is done ``again``, else to nothing."""
    if len(x.shape) == 2:
        inside = inside[:, None]
    elif len(x.shape) == 3:
        inside = inside[:, None, None]
    before = tl.where(again, tl.load(at), 0.0)
    tl.store(at, before + tl.sum(tl.where(inside, x, 0.0), 0))


@jit
def column(x, k: tl.constexpr):
    """Numbers [TILE]: one of the columns of x [TILE, N]."""
    return tl.sum(tl.where(tl.arange(0, x.shape[1])[None, :] == k, x, 0.0), 1)


@jit
def columns(x, first: tl.constexpr, N: tl.constexpr):
    """N columns of x [TILE, M] from one on, each [TILE]."""
    found = ()
    for k in tl.static_range(N):  # pyright: ignore[reportGeneralTypeIssues]
        found = found + (column(x, first + k),)  # noqa: RUF005 - Triton adds tuples, and unpacks none
    return found


@jit
def stacked(numbers):
    """Numbers [TILE] as the columns of a tensor [TILE, N]."""
    i = tl.arange(0, len(numbers))[None, :]
    made = tl.zeros((numbers[0].shape[0], len(numbers)), tl.float32)
    for k in tl.static_range(len(numbers)):  # pyright: ignore[reportGeneralTypeIssues]
        made = tl.where(i == k, numbers[k][:, None], made)
    return made


@jit
def taken(x, at):
    """Columns ``at`` [N] of x [TILE, M]: [TILE, N]; there is none beyond the last."""
    at = tl.minimum(at, x.shape[1] - 1)
    return tl.gather(x, tl.broadcast_to(at[None, :], (x.shape[0], at.shape[0])), 1)


@jit
def add_projection(total, x, weight, inside, exact: tl.constexpr):
    """total [TILE, m] + x [TILE, CHUNK] times weight [m, CHUNK] transposed; rows that are not ``inside`` are zero.

    ``exact`` is the format that holds the numbers of x as they are; products of 16 bits are exact where it is that of
    the weight, too. Beside x in bfloat16 another weight is split into two terms, so that products are exact to 2^-17 of
    it on matrix units that round to bfloat16; otherwise all is float32.
    """
    # A choice between values makes Triton convert x for the product instead of computing it, from its loads on, in
    # the layout that the product wants, where threads hold each of its rows several times over.
    x = tl.where(inside[:, None], x, 0.0)
    weight = tl.trans(weight)
    if weight.dtype == exact and exact != tl.float32:
        total = tl.dot(x.to(exact), weight, total)
    elif exact == tl.bfloat16:
        high = weight.to(tl.bfloat16)
        low = (weight.to(tl.float32) - high.to(tl.float32)).to(tl.bfloat16)
        x = x.to(tl.bfloat16)
        total = tl.dot(x, low, tl.dot(x, high, total))
    else:
        total = tl.dot(x, weight.to(tl.float32), total, input_precision="ieee")
    return total


def shares_of(total: Tensor, many: int, *, single: bool = True) -> Tensor:
    """Where so many programs leave their shares of a sum, float32 [many, ...]; one program leaves the sum itself, if it
    stores it a ``single`` time.
    """
    if many == 1 and single:
        return total
    return torch.empty((many, *total.shape), dtype=torch.float32, device=total.device)


@jit
def add_up(shares, many, size, out, block, BLOCK: tl.constexpr):
    """out [size] in blocks: the sum of shares [many, size].

    Sixteen are read at a time, and added up in an order that depends on how many there are alone.
    """
    i = block * BLOCK + tl.arange(0, BLOCK)
    some = tl.arange(0, 16)
    total = tl.zeros((16, BLOCK), tl.float32)
    for first in range(0, many, 16):
        number = first + some
        inside = (number < many)[:, None] & (i < size)[None, :]
        total += tl.load(shares + number.to(tl.int64)[:, None] * size + i[None, :], mask=inside, other=0.0)
    tl.store(out + i, tl.sum(total, 0).to(out.dtype.element_ty), mask=i < size)


@jit
def ticket(counters):
    """The number of a program, in the order in which programs of a launch begin: those before it have begun."""
    return tl.atomic_add(counters, 1, sem="relaxed")


@jit
def arrive(counters):
    """Says that all that the program has written is in memory."""
    tl.debug_barrier()
    tl.atomic_add(counters + 1, 1, sem="release")


@jit
def wait_for(counters, many, waiting):
    """Waits until so ``many`` programs have arrived. The last of those that are ``waiting`` sets the counters back.

    Who waits must have a later ticket than all it waits for, which wait for nobody: those run, or have run, and end.
    """
    while tl.atomic_add(counters + 1, 0, sem="acquire") < many:
        pass
    if tl.atomic_add(counters + 2, 1, sem="acq_rel") == waiting - 1:
        for i in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues]
            tl.store(counters + i, 0)
    tl.debug_barrier()


@jit
def stable_softplus(x):
    """log(1 + e^x), small values to their last places: the logarithm is given back what 1 + e^-|x| lost of e^-|x|."""
    small = tl.exp(-tl.abs(x))
    kept = (1.0 + small) - 1.0
    return tl.maximum(x, 0.0) + tl.where(kept == 0.0, small, tl.log(1.0 + small) * (small / kept))


@jit
def stable_root_softplus(x):
    """sqrt(log(1 + e^x)): far below zero e^(x/2), which there is when e^x is none."""
    return tl.where(x < -20.0, tl.exp(0.5 * x), tl.sqrt(stable_softplus(x)))


@jit
def stable_tanh(x):
    """Near 0 the polynomial of Cephes' tanhf, elsewhere by e^2|x|."""
    size, square = tl.abs(x), x * x
    series = -5.70498872745e-3 * square + 2.06390887954e-2
    series = (series * square - 5.37397155531e-2) * square + 1.33314422036e-1
    near = (series * square - 3.33332819422e-1) * square * x + x
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, near, tl.where(x < 0, -far, far))


def arrivals(x: Tensor, tiles: int) -> Tensor:
    """Counters of programs that have finished their share of a tile, int32 [tiles or more], on the device of x.

    They are zero between launches: the last program of a tile sets its counter back, as does the last that waits
    (`wait_for`). Launches of one stream share them.
    """
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    return _arrivals(x.device, stream, max(4096, next_power_of_2(tiles)))


@functools.lru_cache
def _arrivals(device: torch.device, stream: int, tiles: int) -> Tensor:
    return torch.zeros(tiles, dtype=torch.int32, device=device)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def largest_power_of_2_in(n: int) -> int:
    """The largest power of two that divides n."""
    return n & -n
