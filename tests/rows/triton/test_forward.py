"""Printed kernels give what their programs give in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from archc.rows.kernel import Kernel
from archc.rows.triton import print_forward
from tests.rows.triton.kernels import add_norm
from tests.rows.triton.printed import call, drawn, exact

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker


def check(interpreted: Worker, kernel: Kernel, tokens: int, act: torch.dtype, **scales: float) -> None:
    """Gives are near to the program's: float32 to a few roundings of the largest number, others to their own."""
    takes = drawn(kernel, tokens, act, **scales)
    got = interpreted(call, print_forward(kernel), *takes.values())
    for (name, want), have in zip(exact(kernel, takes, act).items(), got, strict=True):
        assert have.shape == want.shape, name
        assert have.dtype == (act if kernel.format(name) == "act" else torch.float32), name
        largest = want.abs().max().item()
        bound = torch.finfo(have.dtype).eps / 2 * want.abs() + 32 * torch.finfo(torch.float32).eps * largest
        excess = ((have.double() - want).abs() - bound).max().item()
        assert excess <= 0, f"{name} is {excess:.2g} beyond {largest:.2g}"


@pytest.mark.parametrize("act", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("width", "tokens"), [(64, 37), (20, 5), (4096, 2)])
def test_add_and_norm(interpreted: Worker, width: int, tokens: int, act: torch.dtype) -> None:
    check(interpreted, add_norm(width), tokens, act)
