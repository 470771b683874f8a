"""Calls whose launches are traced; run them in the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from archc.cli._bench.static.traced import Traced, tracing
from kernels.rms_norm import rms_norm
from kernels.rotate import rotate
from kernels.swiglu import swiglu
from tests.kernels.support import probes


def _traced(run: Callable[[], Any], *, sampled: bool = False) -> list[Traced]:
    with tracing(sampled=sampled) as made:
        run()
    return made


def norm(rows: int, width: int, sampled: bool = False) -> list[Traced]:
    x, weight = torch.randn(rows, width).bfloat16(), torch.ones(width).bfloat16()
    return _traced(lambda: rms_norm(x, weight, eps=1e-6), sampled=sampled)


def rotation(tokens: int, heads: int, sampled: bool) -> list[Traced]:
    x, angles = torch.randn(1, tokens, heads, 64).bfloat16(), torch.randn(1, tokens, 16, 2)
    return _traced(lambda: rotate(x, angles), sampled=sampled)


def uneven(programs: int, sampled: bool) -> list[Traced]:
    return _traced(lambda: probes.uneven(programs), sampled=sampled)


def ends(programs: int, sampled: bool) -> list[Traced]:
    return _traced(lambda: probes.ends(programs), sampled=sampled)


def waiting(earlier: int, later: int, sampled: bool) -> list[Traced]:
    return [x for x in _traced(lambda: probes.waiting(earlier, later), sampled=sampled) if x.backend == "triton"]


def norm_backward(rows: int, width: int, dtype: torch.dtype = torch.float32, processors: int = 2) -> list[Traced]:
    x, weight = (torch.ones(*dims, width, dtype=dtype, requires_grad=True) for dims in ((rows,), ()))
    upstream = torch.ones(rows, width, dtype=dtype)
    with patch("kernels.rms_norm.processors", lambda _: processors):
        return _traced(lambda: torch.autograd.grad(rms_norm(x, weight, eps=1e-6), [x, weight], upstream))


def last_arriver(programs: int, width: int) -> list[Traced]:
    x = torch.randn(programs, width)
    return [launch for launch in _traced(lambda: probes.last_arriver(x)) if launch.backend == "triton"]


def gate_of_halves(rows: int, width: int) -> list[Traced]:
    gate, up = torch.randn(rows, 2 * width).chunk(2, dim=-1)
    return _traced(lambda: swiglu(gate, up))


def plain() -> list[Traced]:
    x, one = torch.randn(4, 6), torch.ones(1, 1)

    def run() -> None:
        y = x.view(6, 4).mul(torch.empty(6, 4)).t()
        (y + one.expand(4, 6)).bfloat16()

    return _traced(run)
