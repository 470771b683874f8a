"""Printed kernels give what their programs give in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archc.rows.kernel import Kernel, trained
from archc.rows.pointwise import Square
from archc.rows.rules import Input, Param, Project
from archc.rows.triton import Printed, print_forward
from archc.rows.triton.passes import Passes
from archc.rows.value import Program
from tests.rows.test_cpp import bound, cancelling, expected
from tests.rows.test_cpp_rules import FUNCTIONS, functions, hold, of_all_sizes
from tests.rows.triton import kernels
from tests.rows.triton.printed import call, drawn, exact, shape
from tests.rows.triton.traced import traced

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
law = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(
    interpreted: Worker,
    kernel: Kernel,
    tokens: int,
    act: torch.dtype,
    printed: Printed | None = None,
    *,
    loose: bool = False,
    **scales: float,
) -> None:
    """Gives are near to the program's: float32 to a few roundings of the largest number, others to their own.

    What is made of given activations that were rounded is near to what is made of them: one that fell on the other
    side is exchanged before the rest is compared. ``loose`` allows for roundings that are not given: one unit in the
    last place of the largest number.
    """
    takes = drawn(kernel, tokens, act, **scales)
    got = interpreted(call, printed or print_forward(kernel), *takes.values())
    made = dict(zip(kernel.gives, got, strict=True))
    for name, want in exact(kernel, takes, act, made).items():
        have = made[name]
        assert have.shape == want.shape, name
        assert have.dtype == (act if kernel.format(name) == "act" else torch.float32), name
        largest = want.abs().max().item()
        bound = torch.finfo(have.dtype).eps / 2 * want.abs() + 64 * torch.finfo(torch.float32).eps * largest
        bound = bound + torch.finfo(act).eps * largest * loose
        excess = ((have.double() - want).abs() - bound).max().item()
        assert excess <= 0, f"{name} is {excess:.2g} beyond {largest:.2g}"


@pytest.mark.parametrize("act", [FP32, BF16, FP16])
@pytest.mark.parametrize(("width", "tokens"), [(64, 37), (20, 5), (4096, 2)])
def test_add_and_norm(interpreted: Worker, width: int, tokens: int, act: torch.dtype) -> None:
    check(interpreted, kernels.add_norm(width), tokens, act)


@pytest.mark.parametrize(
    ("width", "turned", "pairs", "end", "inverse"),
    [
        (64, 64, "half", "first", False),
        (36, 20, "half", "last", True),
        (36, 20, "half", "first", False),
        (64, 64, "interleaved", "first", True),
        (48, 16, "interleaved", "last", False),
        (35, 10, "interleaved", "last", False),
    ],
)
def test_norm_and_rotation_of_heads(
    interpreted: Worker, width: int, turned: int, pairs: Any, end: Any, *, inverse: bool
) -> None:
    check(interpreted, kernels.turned(width, turned, pairs, end, 3, inverse=inverse), 15, BF16)
    check(interpreted, kernels.turned(width, turned, pairs, end, 3, inverse=inverse), 15, FP32)


@pytest.mark.parametrize("experts", [8, 100, 256])
def test_router(interpreted: Worker, experts: int) -> None:
    check(interpreted, kernels.router(experts), 9, FP32, logits=5.0)


@pytest.mark.parametrize("act", [FP32, BF16, FP16])
@pytest.mark.parametrize("scaled", [False, True])
def test_projections_by_weights_of_any_format(interpreted: Worker, act: torch.dtype, scaled: bool) -> None:
    """Weights as activations are, and in float32 beside them; rows as they come, and made in the kernel."""
    p = Program()
    x = p.make(Input(name="x", row=True, format="act"))
    narrow = p.make(Param(name="narrow", streams=(6,), row=True, format="act"))
    wide = p.make(Param(name="wide", streams=(6,), row=True))
    row = p.make(Square(), x) if scaled else x
    gives = {"of_narrow": p.make(Project(), row, narrow), "of_wide": p.make(Project(), row, wide)}
    check(interpreted, Kernel("two", 40, kernels.leaves(x, narrow, wide), gives, {}), 11, act, loose=act == BF16)


def test_numbers_alone(interpreted: Worker) -> None:
    check(interpreted, kernels.gates(3), 200, FP32)


@pytest.mark.parametrize(("n", "width"), [(4, 64), (3, 40), (1, 50)])
def test_gated_streams_held_or_in_passes(interpreted: Worker, n: int, width: int) -> None:
    kernel = kernels.gated_streams(n, width)
    check(interpreted, kernel, 6, BF16)
    check(interpreted, kernel, 6, BF16, Passes(kernel).printed())


@pytest.mark.parametrize("width", [64, 40])
def test_numbers_of_parameters_alone(interpreted: Worker, width: int) -> None:
    kernel = kernels.weighed(width)
    check(interpreted, kernel, 6, FP32)
    check(interpreted, kernel, 6, FP32, Passes(kernel).printed())


@law
@given(
    n=st.integers(1, 8),
    width=st.sampled_from([16, 20, 48, 64, 160, 224]),
    tokens=st.integers(1, 40),
    act=st.sampled_from([BF16, FP32, FP16]),
    train=st.booleans(),
    form=st.sampled_from([kernels.rounded_boundary, kernels.single_pass]),
)
def test_boundary(
    interpreted: Worker, n: int, width: int, tokens: int, act: torch.dtype, train: bool, form: Any
) -> None:
    kernel = form(n, width)
    if train:
        kernel = trained(kernel, list(kernel.takes)).forward
    check(interpreted, kernel, tokens, act, fn=0.1)


@pytest.mark.parametrize("left", [1.0, 0.1, 0.01])
def test_norms_of_streams_that_cancel(interpreted: Worker, left: float) -> None:
    kernel, arrays = cancelling(40, left, 8)
    takes = [torch.tensor(arrays[n]).float().view(shape(kernel, v, 8)) for n, v in kernel.takes.items()]
    made = dict(zip(kernel.gives, interpreted(call, print_forward(kernel), *takes), strict=True))
    want = torch.tensor(expected(kernel, arrays)["h"]).view_as(made["h"])
    assert (made["h"] - want).abs().max() <= bound(left) * want.abs().max()


def test_boundary_of_many_tokens(interpreted: Worker) -> None:
    """Tiles of 64 tokens, the last one not full, shared by several programs or by none."""
    check(interpreted, kernels.rounded_boundary(2, 64), 150, BF16, fn=0.1)
    check(interpreted, kernels.rounded_boundary(2, 896), 130, BF16, fn=0.05)


def test_many_tokens_of_one_pass_are_shared_by_no_programs(interpreted: Worker) -> None:
    """Nothing reads the row again: its sums stay in registers, and what moves is what must."""
    kernel = kernels.projected(8, 896)
    printed = print_forward(kernel)
    check(interpreted, kernel, 2050, BF16, printed, weight=0.05)
    for tokens in (300, 2080):
        ((_, distinct, _),) = interpreted(traced, printed, drawn(kernel, tokens, BF16))
        assert "partial" not in distinct


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_functions(interpreted: Worker) -> None:
    """Each function, small results to their last places too: near 0, and far on the side where it vanishes."""
    x = of_all_sizes(40)
    got = interpreted(call, print_forward(functions(40)), torch.tensor(x))
    for name, mine in zip(FUNCTIONS, got, strict=True):
        hold(name, mine.numpy(), x)


def test_nothing_hides_what_is_no_number(interpreted: Worker) -> None:
    """NaN stays NaN, which the minimum and the maximum of Triton would drop."""
    kernel = functions(40)
    got = interpreted(call, print_forward(kernel), torch.full((3, 40), math.nan))
    hidden = {name for name, x in zip(kernel.gives, got, strict=True) if not x.isnan().all()}
    assert hidden == {"sign", "inside"}
