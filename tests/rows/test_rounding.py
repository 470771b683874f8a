"""What is rounded to few bits is fused with what makes it, and comes out to the last bit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from archc.graph import Builder, Graph, Scope, Value
from archc.plan.passes.fuse import fuse
from archc.rows.interpret import run
from archc.rows.kernel import Kernel
from archc.rows.lower import lower
from archc.rows.triton import print_forward
from kernels.quantise import quantise
from tests.rows import compiled
from tests.rows.functions import fits, functions, lowered
from tests.rows.triton import printed

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker


def function(build: Any, *, dim: int) -> tuple[Graph, Scope]:
    """The one function of a module of rows ``dim`` wide."""
    g = Builder("rounded")
    ids = g.embedding("embed", g.tokens, rows=11, dim=dim)
    g.graph.root.returns = [g.call("block", "Block", build, ids, g.sigmoid(ids))]
    fuse(g.graph)
    (found,) = functions(g.graph).values()
    return g.graph, found


def gated(to: str) -> Any:
    def build(g: Any, gate: Value, up: Value) -> Value:
        return g.quantise(g.swiglu(gate, up, limit=2.0), to=to)

    return build


def normed(to: str) -> Any:
    def build(g: Any, x: Value, y: Value) -> Value:
        return g.quantise(g.rms_norm("norm", x + y, eps=1e-6), to=to)

    return build


CASES = [
    (gated("fp8"), 384, "B S 3", 128),  # groups are tokens of their own
    (gated("fp8"), 96, "B S", 96),
    (gated("fp4"), 64, "B S 2", 32),
    (normed("fp8"), 256, "B S", 128),  # a norm of all groups together: each is a stream
    (normed("fp4"), 96, "B S", 32),
]


@pytest.mark.parametrize(("build", "dim", "tokens", "width"), CASES)
def test_groups_are_rows(build: Any, dim: int, tokens: str, width: int) -> None:
    graph, found = function(build, dim=dim)
    low = lowered(found)
    assert (" ".join(map(str, low.tokens)), low.kernel.width) == (tokens, width)
    assert max(fits(graph, found)) < 1e-12


def alone(to: Any, dim: int) -> Kernel:
    """A kernel that rounds and does nothing else."""
    g = Builder("rounded")
    x = g.embedding("embed", g.tokens, rows=11, dim=dim)
    node = g.quantise(x, to=to).node
    assert node is not None
    return lower([node], {x: "x"}, {"y": node.outs[0]}, "rounded").kernel


def numbers(dim: int) -> torch.Tensor:
    """Rows of all magnitudes; one of zeros, one with a number that stands out, ties, powers of two."""
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn(12, dim, generator=generator) * torch.logspace(-6, 6, 12)[:, None]
    x[0] = 0
    x[1, 0] = 1e4
    x[2] = torch.randint(-448, 449, (dim,), generator=generator).float()
    x[3] = torch.randint(-8, 8, (dim,), generator=generator).float().exp2()
    x[4, ::2] = 448.0
    return x


@pytest.mark.parametrize("act", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("to", "dim"), [("fp8", 384), ("fp8", 48), ("fp4", 96)])
def test_rounded_to_the_last_bit(interpreted: Worker, to: Any, dim: int, act: torch.dtype) -> None:
    kernel, x = alone(to, dim), numbers(dim).to(act)
    want = quantise(x, to=to).float()
    flat = x.reshape(-1, kernel.width)
    takes = {"x": flat.double().numpy()}
    kind = "float" if act is torch.float32 else "bfloat16"
    native = compiled.call([kernel], 0, takes, len(flat), kind)["y"].astype(np.float32)
    assert torch.equal(torch.from_numpy(native).view_as(want), want)
    (got,) = interpreted(printed.call, print_forward(kernel), flat)
    assert torch.equal(got.float().view_as(want), want)
    (exact,) = run([kernel.gives["y"]], takes)
    assert torch.equal(torch.tensor(exact).float().view_as(want), want)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("to", "dim"), [("fp8", 256), ("fp4", 64)])
def test_a_group_with_what_is_no_number_is_none(interpreted: Worker, to: Any, dim: int, bad: float) -> None:
    kernel, x = alone(to, dim), numbers(dim)
    x[3, 5] = bad
    flat = x.reshape(-1, kernel.width)
    want = quantise(x, to=to).view_as(flat)
    assert want.isnan().all(-1).sum() == 1
    native = compiled.call([kernel], 0, {"x": flat.double().numpy()}, len(flat))["y"].astype(np.float32)
    (got,) = interpreted(printed.call, print_forward(kernel), flat)
    (exact,) = run([kernel.gives["y"]], {"x": flat.double().numpy()})
    for made in (torch.from_numpy(native), got, torch.tensor(exact).float()):
        torch.testing.assert_close(made.view_as(flat), want, rtol=0, atol=0, equal_nan=True)
