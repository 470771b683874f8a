"""What a workload holds in memory, on all devices together and on the fullest of them."""

from __future__ import annotations

from archc.cost.report import Memory, Mode
from archc.cost.setting import Setting
from archc.graph import Graph
from archc.ops import Workload
from archc.schema import Model


def memory(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> Memory | None:
    """Memory of a workload in a setting."""
    del model, graph, w, mode, setting
    return None
