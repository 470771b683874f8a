"""Generated C++ gives what the program gives in float64, forward and backward, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.rows.interpret import run
from archc.rows.kernel import Kernel, optimised, trained
from archc.rows.rules import Input
from tests.rows.boundary import boundary
from tests.rows.compiled import NUMPY, call, shape

TOLERANCE = {"float": 5e-5, "bfloat16": 2e-2}
"""Of the largest number of an array: rounding of the sums, or of activations (8 bits) that more sums are made of."""


def drawn(kernel: Kernel, tokens: int, act: str, seed: int) -> dict[str, Any]:
    """Takes that float32 and the format of activations hold exactly."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, v in kernel.takes.items():
        shared = v.rule.shared if isinstance(v.rule, Input) else 1
        x = rng.normal(size=shape(v, tokens // shared, kernel.width)).repeat(shared, 0)
        if v.row and not v.token and v.streams:
            x /= np.sqrt(x[0, 0].size)  # A matrix whose products are about 1: sigmoids do not saturate
        made[name] = x.astype(NUMPY[act] if kernel.format(name) == "act" else np.float32).astype(np.float64)
    return made


def expected(kernel: Kernel, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What the interpreter gives."""
    return dict(zip(kernel.gives, run(list(kernel.gives.values()), arrays), strict=True))


def check(kernels: list[Kernel], which: int, arrays: Mapping[str, Any], tokens: int, act: str) -> dict[str, Any]:
    """Compares a function with the interpreter, and returns what the latter gives."""
    kernel = kernels[which]
    held = {name: NUMPY[act] if kernel.format(name) == "act" else np.float32 for name in kernel.takes}
    arrays = {name: arrays[name].astype(format).astype(np.float64) for name, format in held.items()}
    want = expected(kernel, arrays)
    got = call(kernels, which, arrays, tokens, act)
    for name, x in want.items():
        tolerance = TOLERANCE[act] * max(float(np.abs(x).max()), 1e-3)
        np.testing.assert_allclose(
            got[name].astype(float), np.broadcast_to(x, got[name].shape), 0, tolerance, err_msg=name
        )
    return want


def check_all(
    kernel: Kernel,
    tokens: int,
    act: str,
    seed: int,
    kept: tuple[str, ...] = (),
    wanted: tuple[str, ...] | None = None,
) -> None:
    """Inference, and the pair of a training step, of one translation unit."""
    forward, backward = trained(kernel, wanted or list(kernel.takes), kept)
    kernels = [optimised(kernel)._replace(name="inference"), forward, backward]
    arrays = drawn(kernel, tokens, act, seed)
    check(kernels, 0, arrays, tokens, act)
    made = check(kernels, 1, arrays, tokens, act)
    check(kernels, 2, {**drawn(backward, tokens, act, seed + 1), **made, **arrays}, tokens, act)


SHAPES = [(3, 33, "float"), (4, 40, "bfloat16")]
MORE = [(4, 2051, "float"), (8, 33, "float"), (1, 16, "bfloat16"), (2, 12, "float"), (5, 1030, "bfloat16")]


@pytest.mark.parametrize(("n", "width", "act"), [*SHAPES, *(pytest.param(*s, marks=pytest.mark.slow) for s in MORE)])
@settings(max_examples=5, deadline=None)
@given(tokens=st.integers(1, 23), seed=st.integers(0, 1000))
def test_boundary(n: int, width: int, act: str, tokens: int, seed: int) -> None:
    check_all(boundary(n, width, 3), tokens, act, seed, kept=("mixed",) if n > 3 else ())


def cancelling(width: int, left: float, tokens: int) -> tuple[Kernel, dict[str, Any]]:
    """A boundary of two streams that are read alike, and of which so much of one is left when they are added."""
    kernel, rng = boundary(2, width, 3), np.random.default_rng(0)
    arrays = {name: np.zeros_like(x) for name, x in drawn(kernel, tokens, "float", 0).items()}
    first, rest = (1000 * rng.normal(size=(tokens, width)) for _ in range(2))
    arrays["streams"][:, 0], arrays["streams"][:, 1] = first, left * rest - first
    arrays["comb"][:] = np.eye(2)[..., None]
    arrays["weight"][:] = 1
    return kernel, {name: x.astype(np.float32).astype(np.float64) for name, x in arrays.items()}


def bound(left: float) -> float:
    """How far the norm of cancelling streams may be off, as a part of it: float32's rounding of squares of them."""
    return 4 * 2**-24 / (left / 2) ** 2


@pytest.mark.parametrize(("width", "left"), [(40, 1.0), (40, 0.1), (40, 0.01), (1000, 0.03)])
def test_norms_of_streams_that_cancel(width: int, left: float) -> None:
    kernel, arrays = cancelling(width, left, 8)
    want, got = expected(kernel, arrays)["h"], call([optimised(kernel)], 0, arrays, 8)["h"]
    assert np.abs(got - want).max() <= bound(left) * np.abs(want).max()


@pytest.mark.parametrize("left", [0.0, 1e-5])
def test_streams_that_cancel_leave_no_nan(left: float) -> None:
    """The square of what is read of streams is made of sums of their products: rounding may leave less than nothing."""
    kernel, arrays = cancelling(40, left, 64)
    arrays["streams"][:, 1] = (left - 1) * arrays["streams"][:, 0]
    for name, made in call([optimised(kernel)], 0, arrays, 64).items():
        assert np.isfinite(made).all(), name
