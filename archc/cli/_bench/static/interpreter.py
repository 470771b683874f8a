"""Repairs to the interpreter of Triton (``TRITON_INTERPRET=1``), without which a kernel in bfloat16 tests nothing.

As shipped (Triton 3.9) the interpreter keeps bfloat16 and fp8 as the integers of their bit patterns, and computes on
those: sums, products, comparisons and dots of bfloat16 are silently wrong (triton-lang/triton issues 10945, 11584,
11604). Call ``repair()`` once, before a kernel runs, in a process that imported Triton with ``TRITON_INTERPRET=1``.
Afterwards:

=========== ==========================================================================================================
bf16, fp8   are numpy arrays of ``ml_dtypes``: arithmetic, comparisons and reductions work on values
casts       between float formats round to nearest even; fp8 saturates, as the cvt.satfinite of a GPU does
tl.dot      widens bf16 and fp8 operands, and rounds float32 operands to tf32 where the kernel asks for tf32
scalars     a Python float given to a kernel is a float32 tensor, as on a GPU
libdevice   common functions compute; as shipped they return None
tl.sum      of bf16 or fp8 rounds along a balanced tree, as a GPU nearly does; as shipped, one element after another
atomics     add in bf16
=========== ==========================================================================================================

Programs run one after another, so races and memory ordering are not tested here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]

Handle: Any = interpreter.TensorHandle
_ir: Any = interpreter._ir
_native: Any = interpreter._interpreter

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FP8 = {
    tl.float8e4nv: np.dtype(ml_dtypes.float8_e4m3fn),
    tl.float8e5: np.dtype(ml_dtypes.float8_e5m2),
    tl.float8e4b8: np.dtype(ml_dtypes.float8_e4m3fnuz),
    tl.float8e5b16: np.dtype(ml_dtypes.float8_e5m2fnuz),
}
EXTENSIONS = {tl.bfloat16: BFLOAT16, **FP8}
FLOATS = (tl.float16, tl.float32, tl.float64, *EXTENSIONS)
# Memory is read and written by native code that knows numpy's own types only.
BITS = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}

_shipped_dtype = interpreter._get_np_dtype
_shipped_convert_argument = interpreter._implicit_cvt
_Reduce: Any = interpreter.ReduceOps
_shipped_sum = _Reduce.sum
_Builder: Any = interpreter.InterpreterBuilder
_shipped = {
    name: getattr(_Builder, name) for name in ("cast_impl", "create_fp_to_fp", "create_atomic_rmw", "create_dot_scaled")
}


def repair() -> None:
    """None; the interpreter of this process is repaired. Repeating it changes nothing."""
    interpreter._get_np_dtype = numpy_dtype
    interpreter._implicit_cvt = convert_argument
    _Reduce.sum = _sum
    for name, method in _METHODS.items():
        setattr(_Builder, name, method)
    _repair_libdevice()


def numpy_dtype(of: Any) -> np.dtype[Any]:
    """The numpy dtype that holds values of a Triton type."""
    element = of.element_ty if isinstance(of, tl.block_type) else of
    if not isinstance(element, tl.pointer_type) and element in EXTENSIONS:
        return EXTENSIONS[element]
    return _shipped_dtype(of)


def convert_argument(argument: Any) -> Any:
    """A launch argument as the kernel sees it: floats become float32 scalars, as in a compiled kernel."""
    if isinstance(argument, float):
        return tl.tensor(Handle(np.array([argument], np.float32), tl.float32), tl.float32)
    return _shipped_convert_argument(argument)


def _bits(data: Array) -> Array:
    return np.ascontiguousarray(data).view(BITS[data.dtype.itemsize]) if _is_extension(data) else data


def _widened(data: Array) -> Array:
    return data.astype(np.float32) if _is_extension(data) else data


def _is_extension(data: Array) -> bool:
    return data.dtype in EXTENSIONS.values()


# ---------------------------------------------------------------------------------------------------- memory
def _load(_builder: Any, pointers: Any, mask: Any, other: Any, _cache: Any, _volatile: Any) -> Any:
    element = pointers.get_element_ty()
    dtype = numpy_dtype(element)
    stored = BITS[dtype.itemsize] if dtype in EXTENSIONS.values() else dtype
    filler = np.zeros((), stored) if other is None else _bits(np.asarray(other.data).astype(dtype))
    filler = np.ascontiguousarray(np.broadcast_to(filler, np.shape(pointers.data)))
    return Handle(_native.load(pointers.data, mask.data, filler, stored).view(dtype), element)


def _store(_builder: Any, pointers: Any, value: Any, mask: Any, _cache: Any) -> Any:
    return _native.store(pointers.data, _bits(value.data), mask.data)


def _atomic_rmw(builder: Any, operation: Any, pointers: Any, value: Any, mask: Any, order: Any, scope: Any) -> Any:
    if value.data.dtype != BFLOAT16:
        return _shipped["create_atomic_rmw"](builder, operation, pointers, value, mask, order, scope)
    if operation != _ir.ATOMIC_OP.FADD:
        raise NotImplementedError(f"{operation} in bfloat16")
    shape = value.data.shape
    addresses, wanted = (np.broadcast_to(np.asarray(t.data), shape) for t in (pointers, mask))
    before = np.zeros(shape, BFLOAT16)
    one = Handle(np.ones(1, bool), tl.int1)
    # One element after another: several may name the same address.
    for at in np.ndindex(shape):
        if wanted[at]:
            address = Handle(np.array([addresses[at]], np.uint64), pointers.dtype)
            before[at] = _load(builder, address, one, None, None, True).data[0]
            after = (np.float32(before[at]) + np.float32(value.data[at])).astype(BFLOAT16)
            _store(builder, address, Handle(np.array([after], BFLOAT16), tl.bfloat16), one, None)
    return Handle(before, tl.bfloat16)


# ---------------------------------------------------------------------------------------------------- formats
def _cast(_builder: Any, source: Any, target: Any) -> Any:
    dtype, data = numpy_dtype(target), source.data
    if dtype in FP8.values():
        limit = float(ml_dtypes.finfo(dtype).max)
        wide = data.astype(np.float32)
        data = np.where(np.isnan(wide), wide, np.clip(wide, -limit, limit))
    return Handle(data.astype(dtype), target.scalar)


def _float_to_float(builder: Any, source: Any, target: Any, rounding: Any) -> Any:
    nearest = rounding is None or rounding == _ir.ROUNDING_MODE.RTNE
    if nearest and source.dtype.scalar in FLOATS and target.scalar in FLOATS:
        return _cast(builder, source, target)
    return _shipped["create_fp_to_fp"](builder, Handle(_bits(source.data), source.dtype), target, rounding)


def _bitcast(_builder: Any, source: Any, target: Any) -> Any:
    return Handle(np.ascontiguousarray(source.data).view(numpy_dtype(target)), target.scalar)


# ---------------------------------------------------------------------------------------------------- sums and dots
def _sum(reduction: Any, operand: Any) -> Any:
    if not _is_extension(operand.handle.data):
        return _shipped_sum(reduction, operand)
    data, axis = operand.handle.data, reduction.axis
    if axis is None:
        data, axis = data.reshape(-1), 0
    data = np.moveaxis(data, axis, -1)
    while data.shape[-1] > 1:
        data = data[..., 0::2] + data[..., 1::2]
    if reduction.keep_dims:
        shape = list(operand.handle.data.shape)
        shape = [1] * len(shape) if reduction.axis is None else [*shape[:axis], 1, *shape[axis + 1 :]]
        return reduction.to_tensor(data.reshape(shape), operand.dtype)
    return reduction.to_tensor(data[..., 0], operand.dtype)


def _dot(_builder: Any, a: Any, b: Any, c: Any, precision: Any, _imprecise: Any) -> Any:
    left, right, added = _widened(a.data), _widened(b.data), _widened(c.data)
    if precision == _ir.INPUT_PRECISION.TF32 and left.dtype == right.dtype == np.float32:
        left, right = interpreter._round_f32_to_tf32(left), interpreter._round_f32_to_tf32(right)
    product = np.matmul(left, right, dtype=added.dtype) + added
    return Handle(product.astype(c.data.dtype), c.dtype.scalar)


def _dot_scaled(
    builder: Any, a: Any, a_scale: Any, a_format: Any, b: Any, b_scale: Any, b_format: Any, *rest: Any
) -> Any:
    """The shipped dot of block-scaled operands, which is right, given the bit patterns it expects."""
    bits = [None if t is None else Handle(_bits(t.data), t.dtype) for t in (a, a_scale, b, b_scale)]
    interpreter._get_np_dtype = _shipped_dtype
    _Builder.cast_impl, _Builder.create_fp_to_fp = _shipped["cast_impl"], _shipped["create_fp_to_fp"]
    try:
        return _shipped["create_dot_scaled"](builder, bits[0], bits[1], a_format, bits[2], bits[3], b_format, *rest)
    finally:
        interpreter._get_np_dtype = numpy_dtype
        _Builder.cast_impl, _Builder.create_fp_to_fp = _cast, _float_to_float


_METHODS: dict[str, Callable[..., Any]] = {
    "create_masked_load": _load,
    "create_masked_store": _store,
    "create_atomic_rmw": _atomic_rmw,
    "cast_impl": _cast,
    "create_fp_to_fp": _float_to_float,
    "create_bitcast": _bitcast,
    "create_int_to_ptr": _bitcast,
    "create_ptr_to_int": _bitcast,
    "create_dot": _dot,
    "create_dot_scaled": _dot_scaled,
}


# ---------------------------------------------------------------------------------------------------- libdevice
_UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "fast_expf": np.exp,
    "fast_logf": np.log,
    "floor": np.floor,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "rcp_rn": np.reciprocal,
    "rint": np.rint,
    # Half away from zero, unlike numpy's round.
    "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "trunc": np.trunc,
}
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "atan2": np.arctan2,
    "copysign": np.copysign,
    "div_rn": np.divide,
    "fast_dividef": np.divide,
    "fast_powf": np.power,
    "fmod": np.fmod,
    "max": np.fmax,
    "min": np.fmin,
    "mul_rn": np.multiply,
    "pow": np.power,
}


def _elementwise(function: Callable[..., Array]) -> Callable[..., Any]:
    def body(*operands: Any, _semantic: Any = None) -> Any:
        tensors = [t if isinstance(t, tl.tensor) else convert_argument(float(t)) for t in operands]
        data = function(*(_widened(t.handle.data) for t in tensors))
        like: Any = max(tensors, key=lambda t: t.handle.data.size)
        kept = Handle(np.asarray(data).astype(like.handle.data.dtype), like.handle.dtype)
        return tl.tensor(kept, like.type)

    return body


def _repair_libdevice() -> None:
    from triton.language.extra import libdevice
    from triton.language.extra.cuda import libdevice as cuda_libdevice

    for module in (libdevice, cuda_libdevice):
        for name, function in (_UNARY | _BINARY).items():
            if hasattr(module, name):
                setattr(module, name, _elementwise(function))
