"""Small kernels, one for each thing that the repaired interpreter must get right; run them in the worker."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from kernels.library import arrive, jit, ticket, wait_for

TRITON = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float8_e4m3fn: tl.float8e4nv,
    torch.float8_e5m2: tl.float8e5,
    torch.float8_e4m3fnuz: tl.float8e4b8,
    torch.float8_e5m2fnuz: tl.float8e5b16,
    torch.int16: tl.int16,
}


@jit
def _arithmetic_kernel(x, y, out, N: tl.constexpr, OPERATION: tl.constexpr):
    at = tl.arange(0, N)
    a = tl.load(x + at)
    b = tl.load(y + at)
    if OPERATION == "add":
        c = a + b
    elif OPERATION == "sub":
        c = a - b
    elif OPERATION == "mul":
        c = a * b
    elif OPERATION == "div":
        c = a / b
    elif OPERATION == "neg":
        c = -a
    elif OPERATION == "abs":
        c = tl.abs(a)
    elif OPERATION == "maximum":
        c = tl.maximum(a, b)
    elif OPERATION == "minimum":
        c = tl.minimum(a, b)
    elif OPERATION == "clamp":
        c = tl.clamp(a, tl.minimum(b, 0.0), tl.maximum(b, 0.0))
    elif OPERATION == "fma":
        c = tl.fma(a, b, b)
    elif OPERATION == "where":
        c = tl.where(a < b, a, b)
    elif OPERATION == "less":
        c = (a < b).to(out.dtype.element_ty)
    else:
        tl.static_assert(OPERATION == "equal")
        c = (a == b).to(out.dtype.element_ty)
    tl.store(out + at, c)


def arithmetic(operation: str, x: Tensor, y: Tensor) -> Tensor:
    """``operation`` on x and y [N], kept in their dtype all along."""
    out = torch.empty_like(x)
    _arithmetic_kernel[(1,)](x, y, out, N=x.numel(), OPERATION=operation)
    return out


@jit
def _reduce_kernel(x, out, ROWS: tl.constexpr, COLS: tl.constexpr, OPERATION: tl.constexpr):
    values = tl.load(x + tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :])
    if OPERATION == "sum":
        reduced = tl.sum(values, axis=1)
    elif OPERATION == "max":
        reduced = tl.max(values, axis=1)
    else:
        reduced = tl.argmax(values, axis=1)
    tl.store(out + tl.arange(0, ROWS), reduced)


def reduce(operation: str, x: Tensor) -> Tensor:
    """The sum, max or argmax of x [R, C] along C, float32 [R]."""
    out = torch.empty(x.shape[0])
    _reduce_kernel[(1,)](x, out, *x.shape, OPERATION=operation)
    return out


@jit
def _cast_kernel(x, out, N: tl.constexpr, MIDDLE: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at).to(MIDDLE).to(out.dtype.element_ty))


def cast(x: Tensor, dtype: torch.dtype, back_to: torch.dtype) -> Tensor:
    """x [N] rounded to dtype, and converted on."""
    out = torch.empty(x.shape, dtype=back_to)
    _cast_kernel[(1,)](x, out, N=x.numel(), MIDDLE=TRITON[dtype])
    return out


@jit
def _bitcast_kernel(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at).to(out.dtype.element_ty, bitcast=True))


def bitcast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of x [N] as another dtype of equal width."""
    out = torch.empty(x.shape, dtype=dtype)
    _bitcast_kernel[(1,)](x, out, N=x.numel())
    return out


@jit
def _masked_kernel(x, out, count, N: tl.constexpr, OTHER: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at, mask=at < count, other=OTHER), mask=at < count + 1)


def masked(x: Tensor, count: int, other: float | None) -> Tensor:
    """The first count elements of x [N], then one of ``other``; the rest of the result is left at -1."""
    out = torch.full_like(x, -1)
    _masked_kernel[(1,)](x, out, count, N=x.numel(), OTHER=other)
    return out


@jit
def _dot_kernel(a, b, out, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr):
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    left = tl.load(a + m * K + tl.arange(0, K)[None, :])
    right = tl.load(b + tl.arange(0, K)[:, None] * N + n)
    tl.store(out + m * N + n, tl.dot(left, right, input_precision=PRECISION))


def dot(a: Tensor, b: Tensor, precision: str = "ieee") -> Tensor:
    """a [M, K] @ b [K, N], float32."""
    out = torch.empty(a.shape[0], b.shape[1])
    _dot_kernel[(1,)](a, b, out, *a.shape, b.shape[1], PRECISION=precision)
    return out


@jit
def _dot_scaled_kernel(a, a_scale, b, b_scale, out, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    left = tl.load(a + m * K + tl.arange(0, K)[None, :])
    right = tl.load(b + tl.arange(0, K)[:, None] * N + n)
    groups = tl.arange(0, K // 32)[None, :]
    left_scale = tl.load(a_scale + m * (K // 32) + groups)
    right_scale = tl.load(b_scale + tl.arange(0, N)[:, None] * (K // 32) + groups)
    tl.store(out + m * N + n, tl.dot_scaled(left, left_scale, "e4m3", right, right_scale, "e4m3"))


def dot_scaled(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    """a [M, K] @ b [K, N] in fp8 with a power-of-two scale (uint8, e8m0) for each 32 of K, float32."""
    out = torch.empty(a.shape[0], b.shape[1])
    _dot_scaled_kernel[(1,)](a, a_scale, b, b_scale, out, *a.shape, b.shape[1])
    return out


@jit
def _scalar_kernel(out, scale, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, at.to(tl.float32) * scale.to(tl.float32))


def scalar(scale: float, n: int) -> Tensor:
    """0, 1, ..., n - 1 times scale."""
    out = torch.empty(n)
    _scalar_kernel[(1,)](out, scale, N=n)
    return out


@jit
def _libdevice_kernel(x, y, out, N: tl.constexpr, FUNCTION: tl.constexpr):
    at = tl.arange(0, N)
    a = tl.load(x + at)
    b = tl.load(y + at)
    if FUNCTION == "tanh":
        c = libdevice.tanh(a)
    elif FUNCTION == "erf":
        c = libdevice.erf(a)
    elif FUNCTION == "rsqrt":
        c = libdevice.rsqrt(b)
    elif FUNCTION == "log1p":
        c = libdevice.log1p(b)
    elif FUNCTION == "round":
        c = libdevice.round(a)
    elif FUNCTION == "pow":
        c = libdevice.pow(b, a)
    else:
        tl.static_assert(FUNCTION == "copysign")
        c = libdevice.copysign(b, a)
    tl.store(out + at, c)


def device_function(name: str, x: Tensor, y: Tensor) -> Tensor:
    """A function of libdevice on x (or y where it needs positive operands), float32 [N]."""
    out = torch.empty_like(x)
    _libdevice_kernel[(1,)](x, y, out, N=x.numel(), FUNCTION=name)
    return out


@jit
def _atomic_kernel(x, bins, out, before, N: tl.constexpr):
    at = tl.arange(0, N)
    old = tl.atomic_add(out + tl.load(bins + at), tl.load(x + at), mask=at < N - 1)
    tl.store(before + at, old, mask=at < N - 1)


def atomic_add(x: Tensor, bins: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """x [N] but its last, added into bins [count]; and what each addition found there."""
    out, before = torch.zeros(count, dtype=x.dtype), torch.zeros_like(x)
    _atomic_kernel[(1,)](x, bins, out, before, N=x.numel())
    return out, before


@jit
def _last_arriver_kernel(x, parts, arrived, out, PROGRAMS: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    program = tl.program_id(0)
    tl.store(parts + program, tl.sum(tl.load(x + program * N + at), axis=0))
    before = tl.atomic_add(arrived, 1, sem="acq_rel")
    if before == PROGRAMS - 1:
        tl.store(out, tl.sum(tl.load(parts + tl.arange(0, PROGRAMS)), axis=0))
        tl.store(arrived, 0)


def last_arriver(x: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of x [programs, N], made by the program that comes last; and the counter, which it resets."""
    parts, arrived, out = torch.empty(len(x)), torch.zeros(1, dtype=torch.int32), torch.full((1,), -1.0)
    _last_arriver_kernel[(len(x),)](x, parts, arrived, out, PROGRAMS=len(x), N=x.shape[1])
    return out, arrived


@jit
def _uneven_kernel(out, HALF: tl.constexpr):
    program = tl.program_id(0)
    if program < HALF:
        tl.store(out + program * 4 + tl.arange(0, 4), tl.zeros((4,), tl.float32))
    else:
        tl.store(out + program * 4, 1.0)


def uneven(programs: int) -> Tensor:
    """A first half of programs that store four numbers, and a second half that store one."""
    out = torch.empty(programs * 4)
    _uneven_kernel[(programs,)](out, HALF=programs // 2)
    return out


@jit
def _ends_kernel(out, EVERY: tl.constexpr):
    program = tl.program_id(0)
    if program % EVERY == EVERY - 1:
        tl.store(out + program * 4, 1.0)
    else:
        tl.store(out + program * 4 + tl.arange(0, 4), tl.zeros((4,), tl.float32))


def ends(programs: int) -> Tensor:
    """Programs that store four numbers, but for each eleventh, the end of a row, which stores one."""
    out = torch.empty(programs * 4)
    _ends_kernel[(programs,)](out, EVERY=11)
    return out


@jit
def _store_four(program, numbers):
    tl.store(numbers + program * 4 + tl.arange(0, 4), tl.zeros((4,), tl.float32) + program)


@jit
def _add_up_all(program, ones, numbers, total, N: tl.constexpr):
    own = tl.sum(tl.load(ones + program * 8 + tl.arange(0, 8)), 0)
    tl.store(total + program, own + tl.sum(tl.load(numbers + tl.arange(0, N)), 0))


@jit
def _waiting_kernel(x, state, out, counters, earlier, N: tl.constexpr):
    program = ticket(counters)
    if program < earlier:
        _store_four(program, state)
        arrive(counters)
    else:
        wait_for(counters, earlier, tl.num_programs(0) - earlier)
        program -= earlier
        _add_up_all(program, x, state, out, N)


def waiting(earlier: int, later: int) -> tuple[Tensor, Tensor]:
    """Programs that leave four numbers each, and as many as wait for them and add up all, and eight ones: the sums, and
    the counters.
    """
    x, state, out = torch.ones(later * 8), torch.empty(earlier * 4), torch.empty(later)
    counters = torch.zeros(3, dtype=torch.int32)
    _waiting_kernel[(earlier + later,)](x, state, out, counters, earlier, N=earlier * 4)
    return out, counters
