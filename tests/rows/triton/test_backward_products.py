"""Products summed over tokens that programs which walk tokens make, too: of few numbers, so that shares are small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.rows.kernel import Kernel, trained
from archc.rows.traffic import bound, moved
from archc.rows.triton import print_backward
from archc.rows.triton.printed import Printed
from tests.rows.triton.kernels import head, rounded_boundary
from tests.rows.triton.printed import arrays, call, drawn, exact, shape
from tests.rows.triton.test_backward import check
from tests.rows.triton.traced import traced

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

WIDE = head(4, 1024)


def printed(kernel: Kernel, *, again: bool = True) -> tuple[Printed, Kernel]:
    """The gradient, which reads the mixed streams or makes them again, and its program."""
    pair = trained(kernel, list(kernel.takes), ("mixed",))
    return print_backward(pair.settled, {"mixed": pair.forward.gives["mixed"]} if again else None), pair.settled


def compared(
    interpreted: Worker,
    kernel: Kernel,
    tokens: int,
    act: torch.dtype,
    processors: int = 9,
    *,
    again: bool = True,
) -> None:
    """Gradients of random gives, beside those that the program gives in float64."""
    made, backward = printed(kernel, again=again)
    forward = trained(kernel, list(kernel.takes), ("mixed",)).forward
    takes = drawn(forward, tokens, act)
    known = {**takes, **exact(forward, takes, act)}
    generator = torch.Generator().manual_seed(tokens)
    for name, v in backward.takes.items():
        if name not in known:
            known[name] = torch.randn(shape(backward, v, tokens), generator=generator)
    takes = {n: known[n].to(act if backward.format(n) == "act" else torch.float32) for n in backward.takes}
    got = interpreted(call, made, *takes.values(), processors=processors)
    want = exact(backward, takes, act)
    check(dict(zip(want, zip(got, want.values(), strict=True), strict=True)))


def test_products_of_few_numbers_are_made_where_tokens_are_walked() -> None:
    """Of n streams n numbers, and not n^2 + 2n."""
    assert "_products(" in printed(WIDE)[0].text and "_params" not in printed(WIDE)[0].text
    assert "_params" in printed(rounded_boundary(4, 1024))[0].text


@pytest.mark.parametrize("act", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "processors"), [(1, 9), (16, 9), (17, 9), (64, 9), (250, 9), (700, 3)])
def test_gradients(interpreted: Worker, tokens: int, processors: int, act: torch.dtype) -> None:
    """One tile, several of one program, whose sums it adds up in memory, and several programs with shares."""
    compared(interpreted, head(4, 64), tokens, act, processors)


@pytest.mark.parametrize("again", [False, True])
def test_streams_that_are_read_and_made_again(interpreted: Worker, *, again: bool) -> None:
    compared(interpreted, head(3, 96), 40, torch.bfloat16, again=again)


@settings(max_examples=6, deadline=None)
@given(n=st.integers(2, 8), width=st.integers(9, 100), tokens=st.integers(5, 300))
def test_all_shapes(interpreted: Worker, n: int, width: int, tokens: int) -> None:
    """But of one stream, or one token: how streams are weighed does not, or hardly, change what is normed."""
    compared(interpreted, head(n, width), tokens, torch.float32)


@pytest.mark.parametrize(("tokens", "launches"), [(1, 1), (16, 1), (64, 2)])
def test_one_program_moves_what_must(interpreted: Worker, tokens: int, launches: int) -> None:
    """Every row once, though the streams are walked three times; and state, numbers that passes leave each other. Of
    several tiles sums in bfloat16 are first added up in float32, and there are no such sums of matrices.
    """
    made, backward = printed(WIDE)
    found = interpreted(traced, made, arrays(backward, tokens, torch.bfloat16), 132)
    must = bound(backward, tokens) - moved(backward, "mixed", tokens)
    state = sum(distinct.get("state_all", 0) for _, distinct, _ in found)
    assert len(found) == launches and state <= 0.02 * must
    assert sum(sum(distinct.values()) for _, distinct, _ in found) == must + state + 2 * 4 * 1024 * (launches - 1)


def test_shares_are_few_beside_many_tokens(interpreted: Worker) -> None:
    made, backward = printed(WIDE)
    found = interpreted(traced, made, arrays(backward, 1024, torch.bfloat16), 132)
    must = bound(backward, 1024) - moved(backward, "mixed", 1024)
    assert len(found) == 2
    assert must < sum(sum(distinct.values()) for _, distinct, _ in found) <= 1.06 * must
