"""How long a workload takes on hardware whose rates are known."""

from __future__ import annotations

from archc.cost.report import Mode, Time
from archc.cost.setting import Setting
from archc.graph import Graph
from archc.ops import Workload
from archc.schema import Model


def time(model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting) -> Time | None:
    """Time of a workload in a setting; None where no hardware is given."""
    del model, graph, w, mode, setting
    return None
