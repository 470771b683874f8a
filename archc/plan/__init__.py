"""From a resolved model to its graph."""

from __future__ import annotations

from archc.diagnostics import ArchError, Diagnostic
from archc.graph import BuildError, Graph
from archc.ops import Store
from archc.plan.assemble import ahead_slots, assemble
from archc.plan.passes import PASSES
from archc.plan.shrink import shrink
from archc.schema import Cache, Model


def plan(model: Model, *, names: bool = True, rotated: bool = False) -> Graph:
    """The graph of a model after all passes; without ``names`` its parameters, FLOPs and cache can be counted, not what
    training keeps (which follows the variables of the printed forward), and it cannot be printed.

    Memory of training needs the names: what a forward keeps depends on the variables that hold it.

    Layers are ``rotated`` (see `assemble`) where residual streams are to be left and entered in one kernel.

    Raises `ArchError` at the drawer whose forward does not fit (E0401), or at a cache whose layout nothing knows
    (E0402).
    """
    try:
        graph = assemble(model, names=names, rotated=rotated)
    except BuildError as error:
        raise ArchError((_diagnostic(error),)) from error
    if model.cache.packs and not any(knows(store, model.cache.kind) for _, _, store in graph.states()):
        raise ArchError((_unknown(model.cache),))
    for run in PASSES:
        graph = run(graph)
    return graph


def knows(store: Store, layout: str) -> bool:
    """Whether a store has a packing of its own in caches of a layout."""
    return store.packing is not None and store.packing.layout == layout


def _unknown(cache: Cache) -> Diagnostic:
    return Diagnostic(
        code="E0402",
        message=f"cache {cache.kind}: nothing that this model keeps can be stored so",
        span=cache.origin.span,
        help="bf16 and fp32 store anything",
    )


def _diagnostic(error: BuildError) -> Diagnostic:
    scope = error.scope
    while scope.drawer is None and scope.parent is not None:
        scope = scope.parent
    drawer = scope.drawer
    where = f"{drawer.slot} {drawer.label}: " if drawer is not None else ""
    return Diagnostic(
        code="E0401", message=f"{where}{error.what}", span=drawer.origin.span if drawer is not None else None
    )


__all__ = ["ahead_slots", "knows", "plan", "shrink"]
