"""A second process in which Triton interprets kernels.

Triton decides at import whether kernels are interpreted, its own library functions included. So the process of the
tests keeps a compiling Triton (and everything else as it would be without these tests), and hands calls to one that
interprets.
"""

from __future__ import annotations

import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Worker:
    """A process with Triton's repaired interpreter; calls run there one at a time."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_start)

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What function(*args, **kwargs) returns in the worker; what it raises is raised here.

        The function is named by its module, which the worker imports. Tensors travel as copies, strides kept.
        """
        return _unpacked(self._pool.submit(_run, _packed((function, args, kwargs))).result())

    def close(self) -> None:
        """None; the process is gone."""
        self._pool.shutdown()


def _start() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["ARCHC_KERNELS"] = "triton"
    import numpy as np
    import torch

    from archc.cli._bench.static.interpreter import repair

    torch.set_num_threads(1)
    # A GPU overflows in silence.
    np.seterr(all="ignore")
    repair()


def _run(call: bytes) -> bytes:
    function, args, kwargs = _unpacked(call)
    return _packed(function(*args, **kwargs))


def _packed(value: Any) -> bytes:
    # Left to the pool, torch would send tensors through shared memory; pickle alone does not know those of fp8.
    import torch

    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _unpacked(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=False)
