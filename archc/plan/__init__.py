"""From a resolved model to its graph."""

from __future__ import annotations

from archc.diagnostics import ArchError, Diagnostic
from archc.graph import BuildError, Graph
from archc.plan.assemble import ahead_slots, assemble
from archc.plan.passes import PASSES
from archc.plan.shrink import shrink
from archc.schema import Model


def plan(model: Model) -> Graph:
    """The graph of a model after all passes. Raises `ArchError` (E0401) at the drawer whose forward does not fit."""
    try:
        graph = assemble(model)
    except BuildError as error:
        raise ArchError((_diagnostic(error),)) from error
    for run in PASSES:
        graph = run(graph)
    return graph


def _diagnostic(error: BuildError) -> Diagnostic:
    scope = error.scope
    while scope.drawer is None and scope.parent is not None:
        scope = scope.parent
    drawer = scope.drawer
    where = f"{drawer.slot} {drawer.label}: " if drawer is not None else ""
    return Diagnostic(
        code="E0401", message=f"{where}{error.what}", span=drawer.origin.span if drawer is not None else None
    )


__all__ = ["ahead_slots", "plan", "shrink"]
