"""What compilers make of printed gradients, and what these move: three launches, no spills, rows in 128 bits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch

from archc.rows.kernel import Kernel, trained
from archc.rows.traffic import moved
from archc.rows.triton import Printed, print_backward
from archc.rows.value import Row
from tests.rows.triton import kernels
from tests.rows.triton.printed import arrays, module
from tests.rows.triton.traced import traced

if TYPE_CHECKING:
    from archc.cli._bench.static.compiled import Facts
    from tests.kernels.support.worker import Worker

if os.environ.get("TRITON_INTERPRET", "0") != "0":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)
tools: Any = pytest.importorskip("archc.cli._bench.static.compiled")

FLASH, PRO = 4096, 7168


def gradient(kernel: Kernel, kept: tuple[str, ...] = ()) -> Kernel:
    return trained(kernel, [n for n in kernel.takes if n != "angles"], kept).backward


def facts(kernel: Kernel, target: str, made: Mapping[str, Row] | None = None, tokens: int = 64) -> dict[str, Facts]:
    """The facts of the launches of a gradient, by the name of the kernel."""
    printed = print_backward(kernel, made)
    launch = getattr(module(printed), printed.launcher)
    launches = tools.launches(launch, *arrays(kernel, tokens, torch.bfloat16).values())
    return {one.kernel.fn.__name__: tools.compiled(one, target) for one in launches}


def rows_are_wide(kernel: Kernel, found: dict[str, Facts]) -> None:
    """Rows of tokens go to and from memory 128 bits at a time, all of them."""
    rows = {name for name, v in {**kernel.takes, **kernel.gives}.items() if v.row and v.token}
    seen: set[str] = set()
    for launch in found.values():
        for name, widths in launch.arrays.items():
            array = name.removeprefix("to_").removesuffix("_all")
            if array in rows:
                assert set(widths) == {128}, name
                seen.add(array)
    assert seen == rows


WHOLE = {
    "add and norm": (kernels.add_norm(FLASH), 2),
    "add and norm, wide": (kernels.add_norm(PRO), 2),
    "heads": (kernels.turned(512, 64, "interleaved", "last", 64), 2),
    "router": (kernels.router(256), 2),
    "gated streams": (kernels.gated_streams(4, FLASH), 2),
    "gated streams, wide": (kernels.gated_streams(4, PRO), 2),
}


@pytest.mark.parametrize("name", ["add and norm, wide"])
def test_rows_without_products(name: str) -> None:
    _without_products(name, "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", WHOLE)
def test_rows_without_products_everywhere(name: str, target: str) -> None:
    _without_products(name, target)


def _without_products(name: str, target: str) -> None:
    kernel, launches = WHOLE[name]
    kernel = gradient(kernel)
    found = facts(kernel, target, tokens=4096)
    assert len(found) == launches
    for one in found.values():
        # With 128 registers two programs share a processor: for that the assembler spills a few
        assert one.spilled == 0 or (one.registers == 128 and one.spills <= 64)
        assert one.registers <= 240
    rows_are_wide(kernel, found)


@pytest.mark.slow
def test_one_token_compiles() -> None:
    """Counts of one are constants to Triton."""
    kernel = gradient(kernels.rounded_boundary(2, 32, 2))
    names = [f"_{kernel.name}_{part}" for part in ("tokens", "params")]
    assert list(facts(kernel, "sm_90", tokens=1)) == names


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
@pytest.mark.parametrize("width", [FLASH, PRO])
@pytest.mark.parametrize("make", [kernels.rounded_boundary, kernels.single_pass])
def test_boundaries(make: Any, width: int, target: str) -> None:
    pair = trained(make(4, width, 20), list(make(4, 8).takes), ("mixed",))
    kernel = pair.backward
    found = facts(kernel, target, {"mixed": pair.forward.gives["mixed"]})
    assert len(found) == 3
    for one in found.values():
        assert one.spilled == 0
    rows_are_wide(kernel, found)
    assert any(one.matrix for one in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("width", [FLASH, PRO])
def test_the_end_of_streams(width: int, target: str) -> None:
    """Two launches, the products in the first."""
    made = trained(kernels.head(4, width), list(kernels.head(4, 8).takes), ("mixed",))
    found = facts(made.settled, target, {"mixed": made.forward.gives["mixed"]})
    assert [name.rpartition("_")[2] for name in found] == ["tokens", "sums"]
    assert all(one.spilled == 0 for one in found.values())


@pytest.mark.slow
@pytest.mark.parametrize(("again", "footprint", "requested"), [(False, 1.6, 2.45), (True, 1.35, 2.25)])
def test_boundaries_move_little(interpreted: Worker, again: bool, footprint: float, requested: float) -> None:
    """Bytes of a gradient for 4096 tokens over what must move, as they grow from 64 tokens to 96."""
    pair = trained(kernels.rounded_boundary(4, FLASH, 20), list(kernels.rounded_boundary(4, 8).takes), ("mixed",))
    kernel = pair.backward
    printed = print_backward(kernel, {"mixed": pair.forward.gives["mixed"]} if again else None)
    few, many = (_bytes(interpreted, printed, kernel, tokens) for tokens in (64, 96))
    must, distinct, asked = (a + (b - a) * (4096 - 64) / 32 for a, b in zip(few, many, strict=True))
    assert 1 <= distinct / must <= footprint
    assert distinct < asked <= requested * must


def _bytes(interpreted: Worker, printed: Printed, kernel: Kernel, tokens: int) -> tuple[int, int, int]:
    """Bytes that must move (what was kept could be made of what else is taken), that are touched, and asked for."""
    takes = {n: torch.zeros_like(x) for n, x in arrays(kernel, tokens, torch.bfloat16).items()}
    launches = interpreted(traced, printed, takes)
    must = sum(moved(kernel, n, tokens) for n in (*kernel.takes, *kernel.gives) if n != "mixed")
    assert len(launches) == 3
    return must, sum(sum(m.values()) for _, m, _ in launches), sum(sum(m.values()) for *_, m in launches)
