"""What the compilers make of the kernels, on a machine without a GPU: no spills, wide access, registers to spare."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch

from archc.cli._bench.rows import narrowest
from kernels.rms_norm import rms_norm_backward, rms_norm_forward
from kernels.rotate import rotate_channels
from kernels.swiglu import swiglu_backward, swiglu_forward
from tests.kernels.support import probes

if TYPE_CHECKING:
    from archc.cli._bench.static.compiled import Facts

if os.environ.get("TRITON_INTERPRET", "0") != "0":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)
tools: Any = pytest.importorskip("archc.cli._bench.static.compiled")

COMPILE = tools.triton.compile
BF16, FP32 = torch.bfloat16, torch.float32
OTHER_TARGETS = ("sm_80", "sm_100", "gfx942")


def facts(name: str, width: int, dtype: torch.dtype, target: str) -> Facts:
    """The facts of a launch of an operator, the only one or the one named, on rows of this width."""
    x, weight, rstd = torch.zeros(512, width, dtype=dtype), torch.zeros(width, dtype=dtype), torch.zeros(512)
    heads, angles = torch.zeros(2, 4, 8, width, dtype=dtype), torch.zeros(2, 4, min(width, 64) // 2, 2)
    calls = {
        "rms_norm forward": (rms_norm_forward, x, weight, 1e-6),
        "rms_norm backward": (rms_norm_backward, x, x, weight, rstd, True),
        "rms_norm sums": (rms_norm_backward, x, x, weight, rstd, True),
        "swiglu forward": (swiglu_forward, x, x, None),
        "swiglu backward": (swiglu_backward, x, x, x, None),
        "swiglu backward, limit": (swiglu_backward, x, x, x, 7.0),
        "swiglu backward, gpt-oss": (swiglu_backward, x, x, x, 7.0, 1.702, 1.0),
        "rotate half": (rotate_channels, heads, angles, "half", "first", False),
        "rotate interleaved": (rotate_channels, heads, angles, "interleaved", "last", True),
    }
    first, *rest = tools.launches(*calls[name])
    assert len(rest) == (name in ("rms_norm backward", "rms_norm sums"))
    return tools.compiled(rest[0] if name == "rms_norm sums" else first, target)


ROWS = ("rms_norm forward", "rms_norm backward", "swiglu forward", "swiglu backward")
BACKWARD = ("rms_norm backward", "swiglu backward")
ROTATIONS = ("rotate half", "rotate interleaved")
CASES = [
    *((name, width, BF16, "sm_90") for name in ROWS for width in (4096, 7168, 36)),
    *((name, 4096, FP32, "sm_90") for name in ROWS),
    *((name, 16384, dtype, "sm_90") for name in ROWS[:2] for dtype in (BF16, FP32)),
    *(("rms_norm sums", 4096, BF16, target) for target in ("sm_90", *OTHER_TARGETS)),
    ("swiglu backward, limit", 4096, BF16, "sm_90"),
    ("swiglu backward, gpt-oss", 4096, BF16, "sm_90"),
    *((name, width, BF16, "sm_90") for name in ROTATIONS for width in (64, 128, 512)),
    ("rotate half", 36, FP32, "sm_90"),
    *((name, 4096, BF16, target) for target in OTHER_TARGETS for name in BACKWARD),
    *((name, 36, FP32, target) for target in OTHER_TARGETS for name in BACKWARD),
    *((name, 7168, BF16, "gfx942") for name in ("rms_norm forward", "swiglu forward")),
    *(("rotate interleaved", 512, BF16, target) for target in OTHER_TARGETS),
]


@pytest.mark.parametrize(("name", "width", "dtype", "target"), CASES)
def test_nothing_spills(name: str, width: int, dtype: torch.dtype, target: str) -> None:
    found = facts(name, width, dtype, target)
    assert found.spilled == 0
    assert 0 < found.registers <= 128
    # A loop or a tile unrolled by mistake shows here first.
    assert 50 < found.instructions < 1000


@pytest.mark.parametrize(
    ("name", "width", "target", "narrow_loads", "narrow_stores"),
    [
        # rms_norm stores, and loads again, one float32 a row.
        ("rms_norm forward", 4096, "sm_90", 0, 1),
        ("rms_norm backward", 4096, "sm_90", 1, 0),
        ("rms_norm backward", 16384, "sm_90", 1, 0),
        ("swiglu forward", 4096, "sm_90", 0, 0),
        ("swiglu backward", 4096, "sm_90", 0, 0),
        ("rotate interleaved", 512, "sm_90", 0, 0),
        ("rms_norm forward", 4096, "gfx942", 0, 1),
        ("swiglu backward", 4096, "gfx942", 0, 0),
    ],
)
def test_rows_move_in_128_bits(name: str, width: int, target: str, narrow_loads: int, narrow_stores: int) -> None:
    found = facts(name, width, BF16, target)
    assert found.loads[128] > 0
    assert found.stores[128] > 0
    assert found.loads.total() - found.loads[128] == narrow_loads
    assert found.stores.total() - found.stores[128] == narrow_stores


def test_a_slice_of_a_wider_row_still_moves_in_128_bits() -> None:
    """The latent of DeepSeek's attention: 512 of 576 channels."""
    latent = torch.zeros(64, 576, dtype=BF16)[:, :512]
    (launch,) = tools.launches(rms_norm_forward, latent, torch.zeros(512, dtype=BF16), 1e-6)
    found = tools.compiled(launch, "sm_90")
    assert found.spilled == 0 and found.loads[128] >= 2
    # The weight is spread one or two elements a thread.
    assert found.loads.total() - found.loads[128] <= 1


# ---------------------------------------------------------------------------------------------------- the tools
def test_spills_are_seen(tmp_path: Path) -> None:
    """About as many bytes as the assembler says, which is not started with Triton's own options here."""
    x = torch.zeros(64, 4096, dtype=BF16)
    (launch,) = tools.launches(swiglu_backward, x, x, x, None)
    starved = dataclasses.replace(launch, kwargs={**launch.kwargs, "maxnreg": 24})
    made: list[Any] = []
    with patch.object(tools.triton, "compile", lambda *a, **k: made.append(COMPILE(*a, **k)) or made[0]):
        found = tools.compiled(starved, "sm_90")
    assert found.spilled > 0
    (tmp_path / "kernel.ptx").write_text(made[0].asm["ptx"])
    assembler = [str(tools._TOOLS / "ptxas-blackwell"), "-v", "-arch=sm_90a", "kernel.ptx", "-o", "kernel.cubin"]
    said = subprocess.run(assembler, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    assert found.spills == pytest.approx(sum(int(n) for n in re.findall(r"(\d+) bytes spill", said)), rel=0.05)


def test_narrow_access_is_seen() -> None:
    odd = torch.zeros(64, 4097, dtype=BF16)[:, :4096]
    (launch,) = tools.launches(swiglu_forward, odd, odd, None)
    found = tools.compiled(launch, "sm_90")
    assert set(found.loads) == {16} and set(found.stores) == {128}
    assert {name: set(widths) for name, widths in found.arrays.items()} == {"gate": {16}, "up": {16}, "out": {128}}
    assert narrowest({"arrays": found.arrays}, {"gate": 8, "up": 8, "out": 8}) == 16
    assert narrowest({"arrays": found.arrays}, {"gate": 0, "up": 0, "out": 8}) == 128


def test_accesses_belong_to_arrays() -> None:
    """Line by line of the source, also where addresses are made before, and after text moved above the kernel."""
    x = torch.zeros(128, 4096, dtype=BF16)
    launch, _ = tools.launches(rms_norm_backward, x, x, torch.zeros(4096, dtype=BF16), torch.zeros(128), True)
    found = tools.compiled(launch, "sm_90")
    narrow = {name: set(widths) for name, widths in found.arrays.items() if set(widths) != {128}}
    assert set(found.arrays) == {"grad", "x", "weight", "rstd", "dx", "partial"} and narrow == {"rstd": {64}}
    assert sum(widths.total() for widths in found.arrays.values()) == found.loads.total() + found.stores.total()


def test_accesses_of_functions_belong_to_arrays_of_the_kernel() -> None:
    """Under the names that the kernel has for them; accesses to counters are no line of the file."""
    (launch,) = tools.launches(probes.waiting, 64, 32)
    assert set(tools.compiled(launch, "sm_90").arrays) == {"state", "x", "out", "?"}


def test_launches_are_those_of_the_operator() -> None:
    x = torch.zeros(100, 36)
    made = tools.launches(rms_norm_backward, x, x, None, torch.zeros(100), False)
    assert [launch.kernel.fn.__name__ for launch in made] == ["_backward_kernel"]
    assert made[0].kwargs["D"] == 36 and made[0].args[6] == 100
    assert tools.launches(rms_norm_forward, x[:0], None, 1e-6) == []
