"""The Python interface: the command line calls the same functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from archc.cost.count import count
from archc.cost.report import Mode, Report, Time
from archc.cost.setting import Parallel, Setting, setting_of
from archc.graph import Graph
from archc.importers import load
from archc.plan import plan, shrink
from archc.schema import Model

Fuse = Literal["none", "modules", "layers"]
FUSE: Fuse = "modules"
"""How far packages are fused, unless told."""

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


def planned(model: Model, fuse: Fuse = FUSE) -> Graph:
    """The graph that a package is printed from.

    ``fuse``: whether chains of row-local ops are functions with kernels of their own: ``none``; those within
    ``modules``; or across ``layers``, too, each of which then begins by leaving the last sub-layer of the one before.
    """
    graph = plan(model, rotated=fuse == "layers")
    return graph if fuse == "none" else _fused(graph)


def package(model: Model, *, tiny: bool = False, fuse: Fuse = FUSE, rotated: bool = False) -> dict[str, str]:
    """The files of a model's package by relative path; with ``tiny`` of its CPU-size twin.

    ``fuse`` as `planned` has it. Layers are ``rotated`` without it, too, where that is asked for.
    """
    from archc.emit.package import files

    twin = shrink(model)
    whole = twin if tiny else model
    graph, twin_graph = (plan(m, rotated=rotated or fuse == "layers") for m in (whole, twin))

    def costs(model: Model, graph: Graph) -> dict[str, Any]:
        return {mode: count(model, graph, mode=mode).as_dict() for mode in MODES}

    counted = costs(whole, graph), costs(twin, twin_graph)
    if fuse != "none":
        graph, twin_graph = _fused(graph), _fused(twin_graph)
    return files(whole, graph, twin, twin_graph, *counted, fuse=fuse)


def _fused(graph: Graph) -> Graph:
    from archc.plan.passes.fuse import fuse
    from archc.plan.passes.mixtures import mixtures

    return mixtures(fuse(graph))


def build(model: Model, out: str | Path = "build", *, tiny: bool = False, fuse: Fuse = FUSE) -> Path:
    """Writes the package of a model to ``out/<model name>`` and returns that path. A failed build changes nothing.

    ``fuse`` as `planned` has it.
    """
    from archc.emit.package import write

    return write(package(model, tiny=tiny, fuse=fuse), Path(out) / model.name)


def lookup(model: Model) -> Any:
    """What `check` statements read: a function of a cost key and workload keywords. It raises KeyError with the keys
    there are, ValueError for what cannot be, and for times without a machine. Raises `ArchError` for a model that does
    not fit together, whatever is asked.
    """
    graphs = {False: plan(model)}
    reports: dict[tuple, Report] = {}

    def report(keywords: dict[str, Any]) -> Report:
        train = keywords.get("mode") == "train"
        if train not in graphs:
            graphs[train] = plan(model, names=train)
        ways = keywords.pop("parallel", None)
        setting = setting_of(
            model,
            hardware=keywords.pop("hardware", None),
            gpus=keywords.pop("gpus", None),
            parallel=None if ways is None else Parallel.parse(ways),
            recompute=keywords.pop("recompute", "none"),
        )
        return count(model, graphs[train], setting=setting, **keywords)

    def value(key: str, keywords: Mapping[str, Any]) -> Any:
        given = tuple(sorted(keywords.items()))
        if given not in reports:
            reports[given] = report(dict(keywords))
        found = reports[given]
        section, _, rest = key.partition(".")
        if section == "time" and found.time is None:
            known = tuple(f.name for f in fields(Time))
            if rest and rest.partition(".")[0] not in known:
                raise KeyError(key, tuple(f"time.{name}" for name in known))
        elif key != "memory.fits" or found.value(key) is not None:
            return found.value(key)
        raise ValueError(f"`cost.{key}` needs `hardware`: in the model, or as a keyword of the cost")

    return value


__all__ = ["FUSE", "MODES", "Fuse", "build", "cost", "load", "lookup", "package", "planned"]
