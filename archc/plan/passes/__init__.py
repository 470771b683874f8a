"""Passes over a planned graph, in the order they run. A pass is one file with one function `Graph -> Graph`."""

from __future__ import annotations

from collections.abc import Callable

from archc.graph import Graph
from archc.plan.passes.absorb import absorb
from archc.plan.passes.islands import islands

PASSES: tuple[Callable[[Graph], Graph], ...] = (absorb, islands)

__all__ = ["PASSES"]
