"""Streams and gradients along 64 layers of printed models, around 128 sub-layers with random weights.

What is measured is in `bench.residual.depth`.
"""

from __future__ import annotations

import pytest

from bench.residual import depth

FORMS = pytest.mark.parametrize(
    "residual", ["mhc", "mhc { form = paper }", "mhc { form = single_pass }", "mhc { streams = 2 }"]
)


@FORMS
@pytest.mark.parametrize("spread", [0.5, 2.5])
def test_norms_stay_within_a_factor_of_two(residual: str, spread: float) -> None:
    """Where output projections start divided by the square root of the number of sub-layers (GPT-2), even within a
    tenth: mixing neither enlarges nor shrinks what streams share.
    """
    found = depth(residual, spread, by_depth=True)
    for sizes in (found.forward, found.backward):
        assert 0.9 < min(sizes) <= max(sizes) < 1.1
    assert max(map(max, found.gains)) < 1.6  # what the paper has at most (arXiv:2512.24880, figure 7)


@pytest.mark.parametrize("by_depth", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_without_the_constraint_they_grow(seed: int, by_depth: bool) -> None:
    """Hyper-connections whose mixing matrices are as far from the identity as makes 60 of them, one after the other,
    enlarge streams some 3,000 times, which the paper on mHC measured in a model of 30 layers (arXiv:2512.24880, figure
    3); here there are 128. With the same embeddings and the same spread of all else, mHC stays within twice.
    """
    free = depth("hc", 0.28, seed=seed, by_depth=by_depth)
    assert 1500 < max(free.gains[-60]) < 6000
    assert max(free.forward) > 50 and max(free.backward) > 50
    held = depth("mhc", 0.5, seed=seed, by_depth=by_depth)
    assert max(held.forward) < 2 and min(held.forward) > 0.5
    assert max(held.gains[-60]) < 1.001


def test_unconstrained_ones_start_as_a_plain_residual_connection() -> None:
    plain, free = depth("add"), depth("hc")
    assert free.forward == pytest.approx(plain.forward, rel=1e-9)
    assert free.gains == [(1.0, 1.0)] * 128


@FORMS
@pytest.mark.parametrize("seed", [0, 1])
def test_norms_grow_as_those_of_one_stream(residual: str, seed: int) -> None:
    """Of undivided projections they grow by what sub-layers add: forward less than twofold, and in either direction as
    x + F(x) does, but for what one draw of weights differs from another.
    """
    found, plain = depth(residual, 0.5, seed=seed), depth("add", seed=seed)
    assert 1.4 < found.forward[-1] < 2 and max(found.forward) < 2
    assert 0.8 < found.forward[-1] / plain.forward[-1] < 1.25
    assert 0.75 < found.backward[0] / plain.backward[0] < 1.33
