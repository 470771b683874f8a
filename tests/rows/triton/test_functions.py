"""Kernels of every function that fusion makes: of the library's specs, and of drawers drawn together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from archc import resources
from archc.diagnostics import ArchError
from archc.graph import Graph
from archc.importers import load
from archc.plan import plan, shrink
from archc.resolve import load_text
from archc.rows.kernel import Kernel, trained
from archc.rows.rules import Input
from tests.combinations import cover
from tests.rows.functions import functions, fused, lowered
from tests.rows.triton.test_forward import check

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

LIBRARY = sorted(p.stem for p in resources.specs().glob("*.arch"))
QUICK, ALL = ("engram_27b", "qwen3_235b_a22b"), 60
known: set[tuple[object, ...]] = set()


def hold(interpreted: Worker, graph: Graph) -> None:
    """Every function of a graph that was not seen before gives what its program gives, in training too."""
    for function in functions(graph).values():
        kernel = lowered(function).kernel
        form = (kernel.width, *(str(n.op) for n in function.nodes()), *(str(v.type) for v in function.args))
        if form in known:
            continue
        known.add(form)
        heads = math.lcm(*(v.rule.shared for v in kernel.takes.values() if isinstance(v.rule, Input)))
        check(interpreted, kernel, 5 * heads, torch.bfloat16, loose=True)
        check(interpreted, training(kernel), 5 * heads, torch.float32)


def training(kernel: Kernel) -> Kernel:
    """The same that saves what its gradient needs."""
    return trained(kernel, list(kernel.takes)).forward


@pytest.mark.parametrize("spec", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LIBRARY])
def test_functions_of_the_library(interpreted: Worker, spec: str) -> None:
    for rotated in (False, True):
        hold(interpreted, fused(shrink(load(str(resources.specs() / f"{spec}.arch"))), rotated=rotated))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ALL))
def test_functions_of_any_drawers(interpreted: Worker, number: int) -> None:
    try:
        model = load_text(cover.texts(ALL)[number])[0]
        plan(model)
    except ArchError:
        pytest.skip("drawers that do not go together")
    hold(interpreted, fused(model))
