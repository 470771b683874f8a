"""Calls of compiled kernels that Python has no part in: `calls.cpp`, where that can be compiled.

That needs the headers of Python, and takes a quarter of a minute, once. Without it ctypes calls the same kernels.
"""

from __future__ import annotations

import functools
import math
import sysconfig
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import native

if TYPE_CHECKING:
    from types import ModuleType

    from .arrays import Layout

Call = Callable[..., Any]

_ONE_AT_A_TIME = threading.Lock()


def module() -> ModuleType | None:
    """What is in `calls.cpp`; None where it cannot be compiled."""
    with _ONE_AT_A_TIME:
        return _module()


@functools.cache
def _module() -> ModuleType | None:
    torch_home, headers = Path(torch.__file__).parent, Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return None
    # The versions that it is built for are flags, as these tell compiled files apart
    versions = f"-DTORCH={torch.__version__}", f"-DPYTHON={sysconfig.get_config_var('SOABI')}"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    found = native.module(
        Path(__file__).with_suffix(".cpp").read_text(encoding="utf-8"),
        "calls",
        ["-std=c++20", "-O1", "-w", *versions, abi, "-isystem", str(torch_home / "include"), "-isystem", str(headers)],
        [f"-L{torch_home / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-lc10"],
    )
    if found is not None:
        found.setup(Tensor, nn.Parameter, nn.Buffer)
    return found


def prepared(address: int, layout: Layout, dtype: torch.dtype, places: Sequence[int]) -> Call | None:
    """What calls the function at an address with operands, of which those at these places are its takes; None where
    nothing can. What it gives is None of operands that the function is not for.
    """
    found, narrow = module(), dtype == torch.bfloat16
    if found is None:
        return None
    takes = [
        (place, math.prod(a.dims), 0 if a.once else a.shared, narrow and a.act)
        for place, a in zip(places, layout.takes, strict=True)
    ]
    gives = [(tuple(a.own), narrow and a.act) for a in layout.gives]
    call = found.prepare(address, layout.lead, layout.first, layout.size, takes, gives)
    return None if call is None else functools.partial(found.run, call)
