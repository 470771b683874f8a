"""What training a model asks for besides the language loss: its other losses, and what happens after a step."""

from __future__ import annotations

from typing import Any

from archc.graph import Graph
from archc.ops.loss import CountLoads, Loss
from archc.schema import Model


def losses(model: Model, graph: Graph) -> list[dict[str, Any]]:
    """The losses beside the language loss: name in ``out.losses``, what computes it, its weight, layers that add to
    it.
    """
    counts: dict[tuple[str, str, float], int] = {}
    for node, times in graph.walk():
        if isinstance(node.op, Loss):
            key = (node.op.name, node.op.kind, node.op.weight)
            counts[key] = counts.get(key, 0) + times
    if model.mtp is not None:
        counts["mtp", "cross_entropy", model.mtp.weight] = model.mtp.depth
    return [{"name": n, "kind": k, "weight": w, "layers": times} for (n, k, w), times in counts.items()]


def router_biases(graph: Graph) -> list[dict[str, Any]]:
    """The biases that `after_step` moves: how far, and how many routers have one."""
    counts: dict[float, int] = {}
    for node, times in graph.walk():
        if isinstance(node.op, CountLoads):
            counts[node.op.rate] = counts.get(node.op.rate, 0) + times
    return [{"rate": rate, "routers": times} for rate, times in counts.items()]
