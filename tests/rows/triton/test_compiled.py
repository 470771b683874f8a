"""What compilers make of printed kernels, on a machine without a GPU: one launch, no spills, rows in 128 bits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from archc.rows.kernel import Kernel, trained
from archc.rows.triton import print_forward
from tests.rows.triton import kernels
from tests.rows.triton.printed import arrays, module

if TYPE_CHECKING:
    from archc.cli._bench.static.compiled import Facts

if os.environ.get("TRITON_INTERPRET", "0") != "0":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)
tools: Any = pytest.importorskip("archc.cli._bench.static.compiled")

BF16, FP32 = torch.bfloat16, torch.float32
FLASH, PRO = 4096, 7168


def compiled(kernel: Kernel, tokens: int, target: str, act: torch.dtype = BF16) -> Facts:
    """The facts of the one launch of a kernel."""
    printed = print_forward(kernel)
    launch = getattr(module(printed), printed.launcher)
    (made,) = tools.launches(launch, *arrays(kernel, tokens, act).values())
    return tools.compiled(made, target)


def training(kernel: Kernel) -> Kernel:
    """The same that saves what its gradient needs."""
    return trained(kernel, list(kernel.takes)).forward


HELD = {
    "add and norm": (kernels.add_norm(FLASH), 64),
    "add and norm, wide": (kernels.add_norm(PRO), 64),
    "heads, half": (kernels.turned(128, 128, "half", "first", 32), 2048),
    "heads, last of them interleaved": (kernels.turned(512, 64, "interleaved", "last", 64), 4096),
    "router": (kernels.router(256), 64),
    "gated streams": (kernels.gated_streams(4, FLASH), 64),
    "gated streams, in passes": (kernels.gated_streams(4, PRO), 64),
}


@pytest.mark.parametrize("name", ["add and norm, wide", "heads, last of them interleaved"])
def test_rows_are_held_in_registers(name: str) -> None:
    _check_held(*HELD[name], "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", HELD)
def test_rows_are_held_in_registers_everywhere(name: str, target: str) -> None:
    _check_held(*HELD[name], target)


def _check_held(kernel: Kernel, tokens: int, target: str) -> None:
    found = compiled(kernel, tokens, target)
    assert found.spilled == 0
    assert found.registers <= 192
    assert found.instructions < 1500
    # Angles are read pair by pair where partners are half a row apart; gates are numbers, a few for each token
    for name, widths in found.arrays.items():
        array = name.removeprefix("to_")
        value = kernel.takes.get(array) or kernel.gives.get(array)
        if value is not None and value.row and value.token:
            assert set(widths) == {128}, name


BOUNDARIES = {
    "boundary": lambda width: kernels.rounded_boundary(4, width, 20),
    "boundary in training": lambda width: training(kernels.rounded_boundary(4, width, 20)),
    "single pass": lambda width: kernels.single_pass(4, width, 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
@pytest.mark.parametrize("tokens", [1, 64, 4096])
@pytest.mark.parametrize("width", [FLASH, PRO])
@pytest.mark.parametrize("form", BOUNDARIES)
def test_boundaries_are_one_launch_without_spills(form: str, width: int, tokens: int, target: str) -> None:
    kernel = BOUNDARIES[form](width)
    found = compiled(kernel, tokens, target)
    assert found.spilled == 0
    assert found.registers <= (192 if tokens > 256 else 232)
    assert found.instructions <= (3200 if tokens > 256 else 3700)
    matrix = "HMMA" if tokens <= 256 else {"sm_90": "HGMMA", "sm_100": "UTCHMMA"}[target]
    assert set(found.matrix) == {matrix}
    for name in ("streams", "y", "fn", "weight", "to_mixed", "to_h"):
        assert set(found.arrays.get(name, {128})) <= {128}, name


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 4096])
@pytest.mark.parametrize("form", BOUNDARIES)
def test_boundaries_compile_for_amd(form: str, tokens: int) -> None:
    assert compiled(BOUNDARIES[form](FLASH), tokens, "gfx942").spilled == 0


@pytest.mark.slow
def test_boundary_in_float32_compiles() -> None:
    assert compiled(kernels.rounded_boundary(4, FLASH, 20), 1, "sm_90", FP32).spilled == 0
