"""Where a figure comes from: its terms, the numbers in them, and the spec lines that set those numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from archc.cost.count import DEFAULT_REWIND, LENGTH_BYTES, Learning, node_cost, tidy
from archc.cost.formats import WEIGHT, held, product_of, size_of
from archc.cost.placement import rows_read
from archc.cost.report import Report
from archc.cost.setting import Setting
from archc.diagnostics import Span
from archc.graph import Graph, Node, Scope
from archc.ops import ParamSpec, Store, Table, Type, Workload, numel, size
from archc.ops.loss import Loss
from archc.ops.time import BYTES, row_parts
from archc.record import dataclass
from archc.schema import Cache, Compress, Drawer, Indexer, Model, Precision, Router


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """``count`` equal parts of a figure: ``what`` they are, the ``formula`` of one in numbers, their ``total``."""

    what: str
    count: int
    formula: str
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A field that the figure depends on, its value, and where the specs set it, what decided first."""

    drawer: str
    field: str
    value: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A figure taken apart: the terms together, divided by ``over`` (1 unless it is a figure per token)."""

    key: str
    value: Any
    terms: tuple[Term, ...]
    sources: tuple[Source, ...]
    over: int = 1

    def as_dict(self) -> dict[str, Any]:
        """As plain data; spans as ``file:line:column``."""
        return {
            "key": self.key,
            "value": self.value,
            "terms": [asdict(t) for t in self.terms],
            "over": self.over,
            "sources": [
                {"drawer": s.drawer, "field": s.field, "value": s.value, "spans": [str(x) for x in s.spans]}
                for s in self.sources
            ],
        }


def explain(model: Model, graph: Graph, report: Report, key: str, setting: Setting | None = None) -> Explanation:
    """The figure at ``key`` of a report made in a ``setting``, taken apart. Raises KeyError with the keys there are."""
    value = report.value(key)
    section, _, rest = key.partition(".")
    component = rest.rpartition(".")[2] if ".by_component." in key else None
    if section == "params":
        parts = _params(graph, rest, component)
    elif section == "flops":
        parts = _flops(model.precision, graph, report, rest, component)
    elif section == "kv_cache":
        parts = _cache(model.cache, graph, report, rest, component)
    elif section == "tables":
        parts = _tables(model.precision, graph, report, rest)
    else:
        parts = []
    if section == "time" and setting is not None and report.time is not None:
        from archc.cost.timed import terms

        found = tuple(_merged(terms(model, graph, report, rest, setting)))
        return Explanation(key=key, value=value, terms=found, sources=())
    if section == "memory" and setting is not None and report.memory is not None:
        from archc.cost.remembered import terms

        found = tuple(_merged(terms(model, graph, report, rest, setting)))
        said = _sources(model, (scope for scope, _ in graph.scopes()), model.precision, model.optimizer)
        sources = tuple(s for s in said if s.drawer != "model" or s.field in _matters(section, component))
        return Explanation(key=key, value=value, terms=found, sources=sources if found else ())
    scopes = dict.fromkeys(scope for _, scope in parts)
    per_token = section == "flops" and (rest.endswith("_per_token") or rest == "weighted_fp8_equivalent")
    return Explanation(
        key=key,
        value=value,
        terms=tuple(_merged(t for t, _ in parts)),
        sources=tuple(
            s for s in _sources(model, scopes) if s.drawer != "model" or s.field in _matters(section, component)
        ),
        over=report.workload.batch * report.workload.seq if per_token else 1,
    )


def _merged(terms: Iterable[Term]) -> Iterator[Term]:
    """The terms, equal ones of several kinds of layer as one."""
    alike: dict[tuple[str, str], list[Term]] = {}
    for term in terms:
        alike.setdefault((term.what, term.formula), []).append(term)
    for (what, formula), group in alike.items():
        count, total = sum(t.count for t in group), sum(t.total for t in group)
        yield Term(what=what, count=count, formula=formula, total=total)


# --- terms ---------------------------------------------------------------------------------------
_LEFT_OUT = {
    "active_without_embedding": ("embedding", "mtp"),
    "active_core": ("embedding", "head", "mtp"),
    "active": ("mtp",),
    "total": ("mtp",),
    "buffers": ("mtp",),
}


def _params(graph: Graph, rest: str, component: str | None) -> list[tuple[Term, Scope]]:
    groups: dict[tuple, list[Scope]] = {}
    for scope, name, spec, owner, times in _parameters(graph):
        if (component is not None and owner != component) or owner in _LEFT_OUT.get(rest, ()):
            continue
        if (rest == "mtp" and owner != "mtp") or spec.buffer != (rest == "buffers"):
            continue
        share = spec.share if rest.startswith("active") else (1, 1)
        groups.setdefault((name, spec.shape, share, times), []).append(scope)
    out = []
    for (name, shape, share, times), scopes in groups.items():
        formula = " x ".join(f"{n:,}" for n in shape) + (f" x {share[0]}/{share[1]}" if share != (1, 1) else "")
        each = math.prod(shape) * share[0] // share[1]
        count = times * len(scopes)
        out.append((Term(what=name, count=count, formula=formula, total=each * count), scopes[0]))
    return out


def _parameters(graph: Graph) -> Iterator[tuple[Scope, str, ParamSpec, str, int]]:
    """(scope, name with the layer left open, spec, component, times) of every distinct parameter."""
    for scope, times in graph.scopes():
        for value in scope.params:
            assert value.param is not None
            name = ".".join((*scope.path(), value.param.name))
            yield (
                scope,
                re.sub(r"\.layers\.\d+\.", ".layers.*.", name),
                value.param,
                scope.owners[value.param.name],
                times,
            )


def _tables(precision: Precision, graph: Graph, report: Report, rest: str) -> list[tuple[Term, Scope]]:
    out: list[tuple[Term, Scope]] = []
    for scope, name, spec, _, times in _parameters(graph):
        if spec.role != "table":
            continue
        row = sum(size_of(held(spec, precision, training=report.workload.mode == "train"), (1, spec.shape[-1])))
        formulas = {
            "parameters": (" x ".join(f"{n:,}" for n in spec.shape), math.prod(spec.shape)),
            "rows_per_token": (f"{rows_read(spec):,} rows", rows_read(spec)),
            "bytes_per_token": (f"{rows_read(spec):,} rows x {row:,} bytes", rows_read(spec) * row),
        }
        if rest in formulas:
            formula, total = formulas[rest]
            out.append((Term(what=name, count=times, formula=formula, total=total * times), scope))
    return out


def _flops(
    precision: Precision, graph: Graph, report: Report, rest: str, component: str | None
) -> list[tuple[Term, Scope]]:
    shown = report.workload
    w = Workload(batch=shown.batch, new=shown.seq, past=shown.context - shown.seq, cached=shown.mode != "train")
    ideal = not rest.startswith("executed")
    weighted = rest == "weighted_fp8_equivalent"
    forward = weighted or rest.endswith("forward_per_token")
    learns = Learning(graph, w)
    out: list[tuple[Term, Scope]] = []
    per_token = weighted or rest.endswith("_per_token")
    runs = ((node, *run) for node, n in graph.walk(labels=shown.mode == "train") for run in learns.runs(node, n))
    for node, start, times in runs:
        cost = node_cost(node, w)
        ahead = cost.useful if ideal else cost.executed
        back = learns.backward(node, cost, start=start)[0 if ideal else 1]
        training = not forward and (shown.mode == "train" or rest.endswith("train_per_token"))
        if isinstance(node.op, Loss) and not training:
            continue
        both = bool(back) and training
        number = product_of(node, precision)
        total = (WEIGHT[number] if weighted else 1) * times * (ahead + (back if both else 0))
        if not total or (component is not None and node.component != component):
            continue
        if per_token and node.component == "mtp":
            continue
        what = f"{node.component}: {node.op.kind} {node.name or ''}".rstrip()
        learning = (" x 3 with backward" if back == 2 * ahead else f" + backward {back:,}") if both else ""
        formula = _products(node, w, ahead) + learning + (f" x {WEIGHT[number]:g} ({number})" if weighted else "")
        if not ahead:
            formula = f"backward {back:,}"
        out.append((Term(what=what, count=times, formula=formula, total=tidy(total)), node.scope))
    return out


def _products(node: Node, w: Workload, flops: int) -> str:
    """The multiply-adds of a node with its numbers: rows x out x in for linear maps, else their number and shapes."""
    shapes = ", ".join(_sized(v.type, w) for v in node.ins if v.type.dtype != "none")
    if not node.outs:  # a loss
        return f"2 x {flops // 2:,} over {shapes}"
    rows = node.outs[0].type.shape[:-1]
    for shape in (v.type.shape for v in node.ins if len(v.type.shape) in (2, 3)):
        weight = shape[-2:]  # of three dims the first counts experts, of which a row meets one
        if flops == 2 * numel((*rows, *weight), w):
            return " x ".join(f"{size(d, w):,}" for d in (2, *rows, *weight))
    return f"2 x {flops // 2:,} over {shapes} -> {_sized(node.outs[0].type, w)}"


def _sized(type_: Type, w: Workload) -> str:
    return f"[{', '.join(str(size(d, w)) for d in type_.shape)}]"


_OF_ONE_ROW = ("bytes_per_token", "bytes_per_sequence_fixed")


def _cache(cache: Cache, graph: Graph, report: Report, rest: str, component: str | None) -> list[tuple[Term, Scope]]:
    context, batch = report.workload.context, report.workload.batch
    out = []
    for scope, times in graph.scopes(labels=False):
        for name, store in scope.states.items():
            if component is not None and scope.owners[f"state.{name}"] != component:
                continue
            grows = isinstance(store, Table)
            if rest == ("bytes_per_sequence_fixed" if grows else "bytes_per_token"):
                continue
            parts = row_parts(store, element=cache.element, layout=cache.kind)
            entries: float = store.rows(context, DEFAULT_REWIND)
            rows = f"{entries:,}"
            if isinstance(store, Table) and rest == "bytes_per_token":
                entries, rows = 1 / store.every, f"1/{store.every}" if store.every > 1 else "1"
            each = entries * sum(parts.values())
            each = int(each) if each == int(each) else each
            what = f"{'table' if grows else 'ring'} {name}"
            count = times if rest in _OF_ONE_ROW else batch * times
            out.append(
                (
                    Term(what=what, count=count, formula=f"{rows} x {_row(store, cache, parts)}", total=count * each),
                    scope,
                )
            )
    if component is None and rest not in ("bytes_per_token", "by_component"):
        count = 1 if rest in _OF_ONE_ROW else batch
        length = Term(
            what="lengths of the rows", count=count, formula=f"{LENGTH_BYTES} bytes", total=count * LENGTH_BYTES
        )
        out.append((length, graph.root))
    return out


def _row(store: Store, cache: Cache, parts: Mapping[str, int]) -> str:
    """The bytes of one token or entry of a store, whose ``parts`` have names where it is packed."""
    if list(parts) != [""]:
        return f"({' + '.join(f'{n:,} {what}' for what, n in parts.items() if n)}) bytes"
    width = cache.element if store.dtype == "act" else BYTES[store.dtype]
    return f"{' x '.join(map(str, (*store.shape, width)))} bytes"


# --- spec lines ----------------------------------------------------------------------------------
def _matters(section: str, component: str | None) -> set[str]:
    """The fields of a model that can change a figure of this section and component."""
    fields = {"dim", "layers"}
    if section != "kv_cache" and component in (None, "embedding", "head", "mtp"):
        fields.add("vocab")
    return fields if section in ("params", "tables") else fields | {"context"}


def _counting(drawer: Drawer) -> Iterator[Drawer]:
    """The drawers within one that decide how much there is of what it builds: routers, compressors and indexers, not
    norms or ropes.
    """
    for _, value in drawer:
        if isinstance(value, Router | Compress | Indexer):
            yield value
            yield from _counting(value)


def _sources(model: Model, scopes: Iterable[Scope], *more: Drawer) -> Iterable[Source]:
    """What the specs set of the drawers of scopes; once where one drawer stands in several places."""
    return dict.fromkeys(_said(model, scopes, *more))


def _said(model: Model, scopes: Iterable[Scope], *more: Drawer) -> Iterator[Source]:
    drawers: dict[int, Drawer] = {id(drawer): drawer for drawer in (model, *more)}
    for scope in scopes:
        at: Scope | None = scope
        while at is not None:
            if at.drawer is not None:
                drawers[id(at.drawer)] = at.drawer
                drawers |= {id(inner): inner for inner in _counting(at.drawer)}
            at = at.parent
    for drawer in drawers.values():
        who = "model" if drawer is model else f"{drawer.slot} {drawer.label}"
        for field, spans in drawer.origin.fields.items():
            value = getattr(drawer, field, None)
            if isinstance(value, int | str | bool | tuple) and spans:  # nothing is counted by a fraction
                yield Source(drawer=who, field=field, value=_written(value), spans=tuple(spans))


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
