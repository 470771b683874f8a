"""Row programs give what PyTorch gives in float64, gradients too, before and after every rewrite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.rows.interpret import run
from archc.rows.kernel import Kernel, optimised, trained
from archc.rows.rewrite import Levels, Matrix
from archc.rows.rules import Input, Param, Product, RowSum, Rsqrt, add, mul, product
from archc.rows.value import Program, Row, order
from tests.rows.boundary import boundary, reference


def shape(v: Row, tokens: int, width: int) -> tuple[int, ...]:
    return (tokens if v.token else 1, *v.streams, width if v.row else 1)


def drawn(kernel: Kernel, tokens: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape(v, tokens, kernel.width)) for name, v in kernel.takes.items()}


def as_torch(kernel: Kernel, name: str, x: Any) -> torch.Tensor:
    """An array of a take without the dims it has not."""
    v = kernel.takes[name]
    x = torch.tensor(x)
    return (x if v.row else x[..., 0]) if v.token else (x if v.row else x[..., 0])[0]


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 8), width=st.integers(1, 20), tokens=st.integers(1, 5), rounds=st.integers(1, 6))
def test_forward_and_gradients(n: int, width: int, tokens: int, rounds: int) -> None:
    kernel = boundary(n, width, rounds)
    arrays = drawn(kernel, tokens, seed=n * width)
    given = {name: as_torch(kernel, name, x).requires_grad_() for name, x in arrays.items()}
    want = reference(**given, rounds=rounds)
    for some in (kernel, optimised(kernel)):
        for (name, v), got in zip(some.gives.items(), run(list(some.gives.values()), arrays), strict=True):
            wide = got if v.row else got[..., 0]
            np.testing.assert_allclose(wide, want[name].detach().numpy(), rtol=1e-9, atol=1e-9)
    rng = np.random.default_rng(1)
    upstream = {name: rng.normal(size=x.shape) for name, x in want.items()}
    sum((x * torch.tensor(upstream[name])).sum() for name, x in want.items()).backward()  # type: ignore[union-attr]
    for kept in ((), ("mixed",)):
        forward, backward = trained(kernel, list(kernel.takes), kept)
        made = dict(zip(forward.gives, run(list(forward.gives.values()), arrays), strict=True))
        grads = {f"grad_{n}": g if forward.gives[n].row else g[..., None] for n, g in upstream.items()}
        have = {**arrays, **made, **grads}
        have = {name: have[name] for name in backward.takes}
        for name, got in zip(backward.gives, run(list(backward.gives.values()), have), strict=True):
            grad = given[name.removeprefix("d_")].grad
            assert grad is not None
            np.testing.assert_allclose(
                got.reshape(grad.shape), grad.numpy(), rtol=1e-7, atol=1e-8 * float(grad.abs().max())
            )


@pytest.mark.parametrize("together", [False, True])
def test_scales_stay_scales(together: bool) -> None:
    """The gradient of normed streams multiplies each by numbers of its own; no matrix mixes them.

    Streams are normed each, or with one sum of squares for all of them (a head of 512 channels in rows of 64).
    """
    p = Program()
    x = p.make(Input(name="x", streams=(8,), row=True, format="act"))
    weight = p.make(Param(name="weight", streams=(8,), row=True, format="act"))
    letter = "" if together else "k"
    squares = p.make(RowSum(), product(f"k,k->{letter}", x, x))
    factor = p.make(Rsqrt(), add(mul(squares, 1 / 512), 1e-6))
    y = product("k,k->k", product(f"{letter},k->k", factor, x), weight)
    kernel = Kernel("norm", 64, {"x": x, "weight": weight}, {"y": y}, {"y": "act"})
    _, backward = trained(kernel, ["x", "weight"])
    products = [v for v in order(backward.gives.values()) if isinstance(v.rule, Product) and v.row]
    assert products
    assert all(set(a.streams) <= {8} and len(a.streams) <= 1 for v in products for a in v.args)
    assert not any(isinstance(v.rule, Matrix) for v in order(backward.gives.values()))


@pytest.mark.parametrize("n", [1, 4])
def test_two_passes(n: int) -> None:
    """The norm of what a sub-layer reads needs no pass of its own: its sum of squares comes from sums over streams."""
    kernel = boundary(n)
    levels = Levels()
    assert max(map(levels.of, kernel.gives.values())) == 2
    assert max(map(levels.of, optimised(kernel).gives.values())) == 1
