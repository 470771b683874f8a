"""Streams and gradients along 64 layers of printed models, around 128 sub-layers with random weights.

What is measured is in `bench.residual.depth`. The second test has the contrast: the same weights mixing without the
constraint.
"""

from __future__ import annotations

import pytest

from bench.residual import depth, unconstrained

FORMS = pytest.mark.parametrize("residual", ["mhc", "mhc { form = paper }", "mhc { streams = 2 }"])


@FORMS
@pytest.mark.parametrize("spread", [0.5, 2.5])
def test_norms_stay_within_a_factor_of_two(residual: str, spread: float) -> None:
    """Where output projections start divided by the square root of the number of sub-layers (GPT-2), even within a
    tenth: mixing neither enlarges nor shrinks what streams share.
    """
    for sizes in depth(residual, spread, by_depth=True):
        assert 0.9 < min(sizes) <= max(sizes) < 1.1


@pytest.mark.parametrize("spread", [0.5, 2.5])
def test_without_the_constraint_they_do_not(spread: float) -> None:
    forward, backward = depth("mhc", spread, by_depth=True, mixing=unconstrained)
    assert forward[-1] > 1e10 and backward[0] > 1e10


@FORMS
@pytest.mark.parametrize("seed", [0, 1])
def test_norms_grow_as_those_of_one_stream(residual: str, seed: int) -> None:
    """Of undivided projections they grow by what sub-layers add: forward less than twofold, and in either direction as
    x + F(x) does, but for what one draw of weights differs from another.
    """
    forward, backward = depth(residual, 0.5, seed=seed)
    plain_forward, plain_backward = depth("add", seed=seed)
    assert 1.4 < forward[-1] < 2 and max(forward) < 2
    assert 0.8 < forward[-1] / plain_forward[-1] < 1.25
    assert 0.75 < backward[0] / plain_backward[0] < 1.33
