"""Which implementation of an op runs: its reference in PyTorch, its Triton kernels, or its C++.

The environment variable ``ARCHC_KERNELS`` decides:

=========== ====================================================================================================
auto        (the default) Triton for tensors on an NVIDIA or AMD GPU where triton can be imported, else the reference
triton      Triton, or an error where it cannot run; on CPU tensors it needs the interpreter (``TRITON_INTERPRET=1``)
cpp         as auto, but functions that have C++ run that for float32 and bfloat16 tensors in memory; it is compiled
            when it is first called (`native`), and the reference runs where that cannot be
reference   the reference everywhere
=========== ====================================================================================================

The kernels compute in float32, so float64 always takes the reference, which computes in float64. A model reads the
variable once for each of its calls (`decided`), an op outside of one each time; under ``torch.compile`` it is read when
a graph is traced.
"""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

from .library import INTERPRETED, triton

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

MODES = ("auto", "triton", "cpp", "reference")
KERNEL_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))
ACTS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
"""What C++ calls the dtypes of activations that it knows."""

PLAIN = frozenset((torch.Tensor, torch.nn.Parameter, torch.nn.Buffer))


_DECIDED: ContextVar[str | None] = ContextVar("_DECIDED", default=None)


def decided() -> contextlib.AbstractContextManager[None]:
    """A context, of this thread alone, in which the environment is not asked again: for a call of a model, whose ops
    would spend a twentieth of the time of a token on that. Raises as `chosen`.
    """
    return contextlib.nullcontext() if torch.compiler.is_compiling() else _decided()


@contextlib.contextmanager
def _decided() -> Iterator[None]:
    before = _DECIDED.set(_asked())
    try:
        yield
    finally:
        _DECIDED.reset(before)


def _asked() -> str:
    mode = os.environ.get("ARCHC_KERNELS", "auto")
    if mode not in MODES:
        raise ValueError(f"ARCHC_KERNELS is {mode!r}; it must be one of {', '.join(MODES)}")
    return mode


def chosen() -> str:
    """The mode that ``ARCHC_KERNELS`` asks for. Raises ValueError where there is none of that name."""
    return _asked() if torch.compiler.is_compiling() else _DECIDED.get() or _asked()


def wants_cpp() -> bool:
    """Whether C++ is asked for, and no compiler of PyTorch listens."""
    return not torch.compiler.is_compiling() and (_DECIDED.get() or _asked()) == "cpp"


def use_triton(*tensors: Tensor | None) -> bool:
    """Whether the Triton kernels of an op run on these operands (absent ones are None).

    Raises ValueError for an unknown ``ARCHC_KERNELS``, RuntimeError where Triton was demanded and cannot run.
    """
    mode = chosen()
    if mode == "reference":
        return False
    if mode in ("auto", "cpp"):  # asked many times per token, so without more ado
        return triton is not None and all(t is None or (t.is_cuda and t.dtype in KERNEL_DTYPES) for t in tensors)
    present = [tensor for tensor in tensors if tensor is not None]
    if any(tensor.dtype not in KERNEL_DTYPES for tensor in present):
        return False
    devices = {tensor.device.type for tensor in present}
    if triton is None:
        raise RuntimeError("ARCHC_KERNELS=triton, but triton cannot be imported")
    if devices == {"cuda"} or (INTERPRETED and devices == {"cpu"}):
        return True
    where = " and ".join(sorted(devices))
    raise RuntimeError(f"ARCHC_KERNELS=triton cannot run on {where} tensors without TRITON_INTERPRET=1")


def use_cpp(*tensors: Tensor, graded: bool = False) -> bool:
    """Whether C++ of an op runs on these operands of one dtype: wanted, in memory, in the dtype that they have,
    and without a gradient, or where that is ``graded`` with one.
    """
    return chosen() == "cpp" and in_memory(*tensors, graded=graded)


def in_memory(*tensors: Tensor, graded: bool = False) -> bool:
    """Whether operands of one dtype are numbers in memory, with no compiler or transformation about, and with no
    gradient, or where that is ``graded`` with one.
    """
    dtype = tensors[0].dtype
    if torch.is_grad_enabled() is not graded or dtype not in ACTS or torch.compiler.is_compiling():
        return False
    for x in tensors:  # not of fake tensors, nor of sharded ones
        if not x.is_cpu or x.dtype is not dtype or type(x) not in PLAIN:
            return False
    return not _transformed() and not _cast()


_transformed = torch._C._are_functorch_transforms_active  # noqa: SLF001 - has no other name
_cast = torch._C._is_any_autocast_enabled  # noqa: SLF001 - has no other name
