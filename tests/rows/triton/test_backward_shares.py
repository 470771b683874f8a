"""Sums over tokens: one program stores them, several leave shares, and what is given is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from archc.rows.kernel import Kernel, trained
from archc.rows.traffic import bound
from archc.rows.triton import print_backward
from tests.rows.boundary import boundary
from tests.rows.triton.kernels import add_norm, biased, projected, turned, twice_normed
from tests.rows.triton.printed import arrays, call, drawn
from tests.rows.triton.test_backward import check, gradients
from tests.rows.triton.traced import traced

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

NORM, TURN = add_norm(64), turned(48, 32, "interleaved", "last")
WIDE = add_norm(8192)
"""Too wide to be held, in tiles of 8 tokens: programs add to what lies in memory."""
MANY = twice_normed(8192)
ROUTER, LOGITS = projected(20, 64), biased(24, 48)
"""Of a product 16 numbers and 16 channels are made in a program."""


@pytest.mark.parametrize("act", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 600])
@pytest.mark.parametrize("kernel", [NORM, TURN], ids=lambda k: k.name)
def test_rows_in_registers(interpreted: Worker, kernel: Kernel, tokens: int, act: torch.dtype) -> None:
    check(gradients(interpreted, kernel, tokens, act, processors=9))


@pytest.mark.parametrize("tokens", [8, 9, 65])
def test_rows_in_memory(interpreted: Worker, tokens: int) -> None:
    check(gradients(interpreted, WIDE, tokens, torch.bfloat16, processors=9))


@pytest.mark.parametrize("tokens", [8, 9, 65])
def test_many_parameters_in_memory(interpreted: Worker, tokens: int) -> None:
    check(gradients(interpreted, MANY, tokens, torch.bfloat16, processors=9))


def test_many_parameters_have_few_shares(interpreted: Worker) -> None:
    """Of two thirds as many sums as numbers of a token: one program for 64 tokens, which adds up in float32."""
    found = moved(interpreted, MANY, 16, processors=132)
    must = bound(trained(MANY, list(MANY.takes)).settled, 16)
    shares = 4 * 2 * 2 * 8192  # of two sums, written and read
    assert len(found) == 2
    assert sum(found) == must + shares


@pytest.mark.parametrize("act", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "processors"), [(1, 9), (2, 9), (63, 9), (64, 9), (65, 9), (600, 300)])
@pytest.mark.parametrize("kernel", [ROUTER, LOGITS], ids=lambda k: k.name)
def test_products(interpreted: Worker, kernel: Kernel, tokens: int, processors: int, act: torch.dtype) -> None:
    check(gradients(interpreted, kernel, tokens, act, processors=processors))


@pytest.mark.parametrize("kernel", [NORM, ROUTER, boundary(2, 16, 2)], ids=lambda k: k.name)
def test_equal_tokens_give_equal_bits(interpreted: Worker, kernel: Kernel) -> None:
    backward = trained(kernel, list(kernel.takes)).settled
    takes = [x.abs() for x in drawn(backward, 600, torch.bfloat16).values()]
    first, second = (interpreted(call, print_backward(backward), *takes, processors=100) for _ in range(2))
    assert all(x.isfinite().all() for x in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("kernel", "tokens", "launches"),
    [(NORM, 1, 1), (NORM, 64, 1), (TURN, 1, 1), (TURN, 64, 1), (WIDE, 8, 1), (LOGITS, 32, 2)],
    ids=lambda x: x.name if isinstance(x, Kernel) else str(x),
)
def test_a_single_program_moves_what_must(interpreted: Worker, kernel: Kernel, tokens: int, launches: int) -> None:
    """What has no numbers of tokens to leave in memory: each gradient once, in its format."""
    found = moved(interpreted, kernel, tokens, processors=132)
    assert len(found) == launches
    # What two launches read is numbers of tokens: gradients of logits
    twice = 4 * 24 * tokens if kernel is LOGITS else 0
    assert sum(found) == bound(trained(kernel, list(kernel.takes)).settled, tokens) + twice


def test_one_range_has_no_shares(interpreted: Worker) -> None:
    """Programs enough for a GPU, of some channels and experts each: they leave nothing to add up."""
    tokens = 300
    found = moved(interpreted, ROUTER, tokens, processors=9)
    # One launch: 20 numbers of each token are left in memory, and three counters
    assert found == [bound(trained(ROUTER, ["x", "weight"]).settled, tokens) + 4 * 20 * tokens + 3 * 4]


def test_who_waits_leaves_the_counters_zero(interpreted: Worker) -> None:
    """One launch after the other, of few and of many programs that wait."""
    assert interpreted(counters_after, ROUTER, [300, 5, 600], 100) == [0]


def counters_after(kernel: Kernel, tokens: list[int], processors: int) -> list[int]:
    """The numbers that there are in the counters of launches, in the end."""
    from kernels.library import arrivals

    backward = trained(kernel, list(kernel.takes)).settled
    for n in tokens:
        call(print_backward(backward), *drawn(backward, n, torch.bfloat16).values(), processors=processors)
    return arrivals(torch.zeros(1), 3).unique().tolist()


def test_shares_are_few_beside_many_tokens(interpreted: Worker) -> None:
    found = moved(interpreted, NORM, 2048, processors=7)
    must = bound(trained(NORM, list(NORM.takes)).settled, 2048)
    assert len(found) == 2
    assert must < sum(found) <= 1.05 * must


def moved(interpreted: Worker, kernel: Kernel, tokens: int, processors: int) -> list[int]:
    """Distinct bytes of each launch of the gradient, in bfloat16."""
    backward = trained(kernel, list(kernel.takes)).settled
    made = interpreted(traced, print_backward(backward), arrays(backward, tokens, torch.bfloat16), processors)
    return [sum(distinct.values()) for _, distinct, _ in made]
