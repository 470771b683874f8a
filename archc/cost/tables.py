"""Large tables of which ids name a few rows (role `table`): where they lie, and how long their rows take to arrive.

A table lies where the spec says (field ``placement`` of its drawer), or where the setting does. Ids are known before
the first layer runs, so rows from host memory or disk come while the layers before the table's run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from archc.cost.formats import held, size_of
from archc.cost.parallel import local_workload
from archc.cost.placement import Unit, rows_read, units
from archc.cost.report import Mode, Tables
from archc.cost.setting import Setting, Tier
from archc.graph import Graph
from archc.ops import ParamSpec, Workload
from archc.schema import Model


def rows_moved(spec: ParamSpec, w: Workload, setting: Setting) -> int:
    """Rows of a table that the tokens of a replica's step read, and that get a gradient, at most."""
    return min(spec.shape[0], setting.rows(w.batch) * w.new * rows_read(spec))


def specs(graph: Graph) -> list[ParamSpec]:
    """The tables of a graph, one for each layer that they stand on."""
    return [found.spec for found in graph.parameters() if found.spec.role == "table"]


def tables(model: Model, there: Iterable[ParamSpec], setting: Setting, mode: Mode) -> Tables | None:
    """What a model's tables hold and what a token reads of them; None for a model without any."""
    parameters = rows = bytes_ = 0
    lie: Counter[str] = Counter(dict.fromkeys(("device", "host", "disk"), 0))
    for spec in there:
        form = held(spec, model.precision, training=mode == "train")
        parameters += math.prod(spec.shape)
        lie[setting.tier(spec)] += sum(size_of(form, spec.shape))
        rows += rows_read(spec)
        bytes_ += rows_read(spec) * sum(size_of(form, (1, spec.shape[-1])))
    if not parameters:
        return None
    return Tables(parameters=parameters, bytes_by_tier=dict(lie), rows_per_token=rows, bytes_per_token=bytes_)


def far(graph: Graph, setting: Setting) -> Iterator[tuple[int, ParamSpec]]:
    """Tables that are not on the device, with the layers they stand on, in the order of these."""
    parts = units(graph)
    for layer, kind in enumerate(parts.schedule):
        for value in parts.kinds[kind].params():
            if value.param is not None and setting.tier(value.param) != "device":
                yield layer, value.param


def arrival(
    model: Model, graph: Graph, w: Workload, mode: Mode, setting: Setting, takes: Callable[[Unit], float]
) -> tuple[float, float] | None:
    """Seconds in which the rows of a micro-batch arrive at a device, and those of them that the device waits for.

    Devices of tp read their parts of the rows. Tables are read one after the other, from the start of the forward;
    ``takes`` are the seconds of a unit's forward. None where all tables lie on the device, or nothing
    is known of how fast the others are read.
    """
    hw, parts = setting.hardware, units(graph)
    found = list(far(graph, setting))
    if hw is None or not found or not all(hw.brings(setting.tier(spec)) for _, spec in found):
        return None
    local = local_workload(w, setting)
    starts = [takes(parts.first)]
    for kind in parts.schedule:
        starts.append(starts[-1] + takes(parts.kinds[kind]))
    read = waited = 0.0
    for layer, spec in found:
        form = held(spec, model.precision, training=mode == "train")
        row = sum(size_of(form, (1, spec.shape[-1])))
        read += local.batch * local.new / setting.parallel.tp * rows_read(spec) * row / hw.brings(setting.tier(spec))
        waited += max(0.0, read - starts[layer] - waited)
    return read, waited


def assumptions(graph: Graph, mode: Mode, setting: Setting) -> Iterator[str]:
    """What times leave out of tables that are not on the device."""
    tiers: set[Tier] = {setting.tier(spec) for _, spec in far(graph, setting)}
    if not tiers or setting.hardware is None:
        return
    unknown = sorted(where for where in tiers if not setting.hardware.brings(where))
    if unknown:
        yield (
            f"time: no rate of {' and '.join(unknown)} is known of {setting.hardware.label}, so rows of tables arrive"
            " at once; a spec may give it, `hardware mine = h100 { disk = 6GB/s }`."
        )
    else:
        yield (
            "time: rows of tables that are not on the device arrive while the layers before theirs run, at the rate of"
            " long copies, which many short ones may not reach."
        )
    if mode == "train":
        yield "time: gradients that go back to such tables, and their optimizer there, are left out."
