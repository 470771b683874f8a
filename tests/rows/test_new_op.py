"""A row-local op that joins: one entry with its gradient and lines to print, one rule, and it is fused everywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from archc.graph import Builder, Graph, Scope, Value
from archc.ops.base import OPS, expr
from archc.ops.row import RowOp
from archc.plan.passes.fuse import fuse
from archc.rows.lower import RULES, pointwise
from archc.rows.rules import Pointwise, add, mul
from archc.rows.value import Row
from tests.rows import test_cpp
from tests.rows.functions import fits, functions, lowered
from tests.rows.triton import test_backward, test_forward

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker


class Capped(Pointwise):
    """cap tanh(x / cap): Gemma 2 (arXiv:2408.00118, section 2)."""

    cap: float
    cpp = "{cap} * std::tanh({x} / {cap})"
    triton = "{cap} * (2.0 * tl.sigmoid(2.0 / {cap} * {x}) - 1.0)"
    numpy = "cap * np.tanh(x / cap)"

    def vjp(self, out: Row, grad: Row) -> Iterable[Row]:
        return (mul(grad, add(1.0, mul(mul(out, out), -1 / self.cap**2))),)


@pytest.fixture
def graph() -> Iterator[Graph]:
    """A module with the new op between others. The op is known while the test runs."""

    class Softcap(RowOp):
        """cap tanh(x / cap)"""

        cap: float

        def code(self, x: ast.expr) -> ast.expr:
            return expr("cap * (x / cap).tanh()", x=x, cap=self.cap)

    pointwise(Softcap, lambda op: Capped(cap=op.cap))

    def build(g: Any, x: Value, y: Value) -> Value:
        return g.softcap(g.rms_norm("norm", x + y, eps=1e-6), cap=1.5) * y

    g = Builder("capped")
    ids = g.embedding("embed", g.tokens, rows=11, dim=48)
    g.graph.root.returns = [g.call("block", "Block", build, ids, g.sigmoid(ids))]
    yield fuse(g.graph)
    del OPS["softcap"], RULES[Softcap]


def the_function(graph: Graph) -> Scope:
    (function,) = functions(graph).values()
    return function


def test_it_is_fused_and_right(graph: Graph) -> None:
    function = the_function(graph)
    assert [node.op.kind for node in function.nodes()] == ["binary", "rms_norm", "softcap", "binary"]
    assert max(fits(graph, function)) < 1e-12


@pytest.mark.parametrize("act", ["float", "bfloat16"])
def test_it_is_printed_as_c(graph: Graph, act: str) -> None:
    kernel = lowered(the_function(graph)).kernel
    test_cpp.check_all(kernel, tokens=7, act=act, seed=0)


def test_it_is_printed_as_triton(graph: Graph, interpreted: Worker) -> None:
    kernel = lowered(the_function(graph)).kernel
    test_forward.check(interpreted, kernel, 7, torch.bfloat16)
    test_backward.check(test_backward.gradients(interpreted, kernel, 7, torch.bfloat16))
