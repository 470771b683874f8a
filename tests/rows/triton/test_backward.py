"""Printed gradients give what their programs give in float64, whose rules are tested against autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.rows.kernel import Kernel, trained
from archc.rows.triton import print_backward
from tests.rows.boundary import boundary
from tests.rows.triton.kernels import add_norm
from tests.rows.triton.printed import call, drawn, exact, shape

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

BOUNDS = {torch.bfloat16: 3e-3, torch.float16: 4e-4, torch.float32: 2e-5}
"""What the root of the mean square of errors may be of that of a gradient: half a unit in the last place, or less."""


def gradients(
    interpreted: Worker,
    kernel: Kernel,
    tokens: int,
    act: torch.dtype,
    *,
    kept: Sequence[str] = (),
    upstream: float = 1,
    processors: int | None = None,
    **scales: float,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The gradients of all takes, as printed and as the program gives them, with random gradients of the gives. Takes
    are of a size of 1 or what ``scales`` say.
    """
    pair = trained(kernel, list(kernel.takes), kept)
    forward, backward = pair.forward, pair.settled
    takes = drawn(forward, tokens, act, **scales)
    known = {**takes, **exact(forward, takes, act)}
    generator = torch.Generator().manual_seed(tokens)
    for name, v in backward.takes.items():
        if name not in known:
            known[name] = torch.randn(shape(backward, v, tokens), generator=generator) * upstream
    given = {n: known[n].to(act if backward.format(n) == "act" else torch.float32) for n in backward.takes}
    got = interpreted(call, print_backward(backward), *given.values(), processors=processors)
    want = exact(backward, given, act)
    for (name, x), have in zip(want.items(), got, strict=True):
        assert have.shape == x.shape, name
        assert have.dtype == (act if backward.format(name) == "act" else torch.float32), name
    return {name: (have, want[name]) for name, have in zip(want, got, strict=True)}


def check(found: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Gradients are as near as their format lets them."""
    for name, (have, want) in found.items():
        scale = want.abs().max()
        error = ((have.double() - want) / scale).norm() / (want / scale).norm()
        assert error <= BOUNDS[have.dtype], f"{name} is {error:.2g} off"


@pytest.mark.parametrize("act", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("width", "tokens"), [(64, 37), (20, 5), (4096, 9)])
def test_add_and_norm(interpreted: Worker, width: int, tokens: int, act: torch.dtype) -> None:
    check(gradients(interpreted, add_norm(width), tokens, act))


@pytest.mark.parametrize(("act", "kept"), [(torch.float32, ()), (torch.bfloat16, ("mixed",)), (torch.bfloat16, ())])
def test_boundary(interpreted: Worker, act: torch.dtype, kept: Sequence[str]) -> None:
    check(gradients(interpreted, boundary(4, 128, 20), 70, act, kept=kept))


@pytest.mark.parametrize("act", [torch.float32, torch.bfloat16])
def test_large_gradients_stay_finite(interpreted: Worker, act: torch.dtype) -> None:
    check(gradients(interpreted, boundary(4, 64, 5), 33, act, kept=("mixed",), upstream=1e30))


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_rows_of_any_size(interpreted: Worker, size: float) -> None:
    """Of rows whose squares float32 still holds, none of the factors of a gradient is lost beside the others."""
    check(gradients(interpreted, boundary(4, 40, 3), 5, torch.float32, streams=size, y=size))


@settings(max_examples=3, deadline=None)
@given(n=st.integers(1, 8), width=st.integers(1, 100), tokens=st.integers(1, 70), rounds=st.integers(1, 4))
def test_boundaries_of_all_shapes(interpreted: Worker, n: int, width: int, tokens: int, rounds: int) -> None:
    kept = ("mixed",) if tokens % 2 else ()
    check(gradients(interpreted, boundary(n, width, rounds), tokens, torch.float32, kept=kept))


@pytest.mark.parametrize("wanted", [("streams", "y", "post", "comb", "fn"), ("fn",)])
def test_rows_that_were_kept_are_made_again(interpreted: Worker, wanted: Sequence[str]) -> None:
    """Where all that they are made of is taken: without gradients of post and comb, y is not."""
    forward, backward = trained(boundary(2, 32, 2), wanted, ("mixed",))
    known = drawn(forward, 9, torch.float32)
    known |= exact(forward, known, torch.float32)
    upstream = drawn(backward, 9, torch.float32)
    given = {n: known[n].float() if n in known else upstream[n] for n in backward.takes}
    printed = print_backward(backward, {"mixed": forward.gives["mixed"]})
    want = exact(backward, given, torch.float32)
    check(dict(zip(want, zip(interpreted(call, printed, *given.values()), want.values(), strict=True), strict=True)))


def test_sums_over_no_tokens_are_zero(interpreted: Worker) -> None:
    backward = trained(boundary(2, 32, 2), ["streams", "fn", "base", "weight"]).backward
    takes = drawn(backward, 0, torch.float32)
    for name, have in zip(backward.gives, interpreted(call, print_backward(backward), *takes.values()), strict=True):
        v = backward.gives[name]
        assert have.shape == shape(backward, v, 0)
        assert not have.count_nonzero()
