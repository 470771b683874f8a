"""The Python interface: the command line calls the same functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archc.cost.count import count
from archc.cost.report import Mode, Report
from archc.cost.setting import Setting
from archc.graph import Graph
from archc.importers import load
from archc.plan import plan, shrink
from archc.schema import Model

MODES: tuple[Mode, ...] = ("train", "prefill", "decode")


def cost(
    model: Model,
    *,
    mode: Mode = "decode",
    batch: int = 1,
    seq: int | None = None,
    context: int | None = None,
    graph: Graph | None = None,
    setting: Setting | None = None,
) -> Report:
    """The cost report of a resolved model.

    ``seq`` new tokens of each of ``batch`` rows, the last of ``context`` tokens (decode: one new token, ``context``
    defaults to the model's). ``setting`` says on what and how it runs (see `archc.cost.setting`). Raises ValueError for
    a workload that cannot be, `ArchError` for a model that does not fit together.
    """
    return count(
        model,
        graph or plan(model, names=mode == "train"),
        mode=mode,
        batch=batch,
        seq=seq,
        context=context,
        setting=setting,
    )


def package(model: Model, *, tiny: bool = False) -> dict[str, str]:
    """The files of a model's package by relative path; with ``tiny`` of its CPU-size twin."""
    from archc.emit.package import files

    twin = shrink(model)
    whole = twin if tiny else model
    graph, twin_graph = plan(whole), plan(twin)

    def costs(model: Model, graph: Graph) -> dict[str, Any]:
        return {mode: count(model, graph, mode=mode).as_dict() for mode in MODES}

    return files(whole, graph, twin, twin_graph, costs(whole, graph), costs(twin, twin_graph))


def build(model: Model, out: str | Path = "build", *, tiny: bool = False) -> Path:
    """Writes the package of a model to ``out/<model name>`` and returns that path. A failed build changes nothing."""
    from archc.emit.package import write

    return write(package(model, tiny=tiny), Path(out) / model.name)


def lookup(model: Model) -> Any:
    """What `check` statements read: a function of a cost key and workload keywords, over one plan of the model."""
    graph = plan(model)
    reports: dict[tuple, Report] = {}

    def value(key: str, keywords: Mapping[str, Any]) -> float:
        given = tuple(sorted(keywords.items()))
        if given not in reports:
            reports[given] = count(model, graph, **dict(keywords))
        return reports[given].value(key)

    return value


__all__ = ["MODES", "build", "cost", "load", "lookup", "package"]
