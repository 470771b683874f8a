"""Figures of memory taken apart: parameter by parameter, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

from archc.cost.count import tidy
from archc.cost.explain import Term
from archc.cost.memory import SECTIONS, Entry, ledger
from archc.cost.report import Report
from archc.cost.setting import Setting
from archc.graph import Graph
from archc.ops import Workload
from archc.schema import Model


def terms(model: Model, graph: Graph, report: Report, rest: str, setting: Setting) -> Iterator[Term]:
    """The terms of ``memory.<rest>``; none for what is no sum."""
    shown = report.workload
    assert report.memory is not None
    w = Workload(
        batch=shown.batch,
        new=shown.seq,
        past=shown.context - shown.seq,
        cached=shown.mode != "train",
        act=model.precision.activation,
        layout=model.cache.kind,
    )
    found = ledger(model, graph, w, shown.mode, setting)
    head, _, name = rest.partition(".")
    if head == "per_device":
        for e in found[report.memory.stage]:
            if e.section in SECTIONS and name in (e.section, "total"):
                yield _term(e, e.formula, e.count * e.device, section=name == "total")
        return
    for entries in found:
        for e in entries:
            if _counts(e, head, name):
                yield _term(e, e.whole, e.count * e.total, section=False)


def _counts(e: Entry, head: str, name: str) -> bool:
    if head == "weights_by_format":
        return e.section == "weights" and e.form == name
    if head == "master":
        return e.form == "master"
    if head == "kv_cache":
        return e.form in ("device", "host", "disk")
    if head == "kv_cache_by_tier":
        return e.form == name
    return e.section == head


def _term(e: Entry, formula: str, total: float, *, section: bool) -> Term:
    what = f"{e.section}: {e.what}" if section and e.what else e.what or e.section
    return Term(
        what=what, count=e.count, formula=formula or f"{tidy(round(total / e.count, 1)):,} bytes", total=tidy(total)
    )
