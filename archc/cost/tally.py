"""What a graph adds up to: sums over its nodes and scopes, which add up in turn.

A model is the sum of its parts: the tally of a whole graph is that of its layers and of what is around them, as often
as each is run. So a sweep may count the parts that differ and add.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from archc.cost.formats import WEIGHT, product_of
from archc.graph import Graph, Node
from archc.graph.gradient import Gradients, gradients, short
from archc.ops import Cost, Table, Workload
from archc.ops.base import NOTHING
from archc.ops.loss import Loss
from archc.ops.time import row_parts
from archc.record import dataclass
from archc.schema import Cache, Precision

DEFAULT_REWIND = 8
"""Tokens that a cache can take back unless told otherwise: the default of a package's `new_cache`."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums of a graph or of a part of one, by component; all whole numbers.

    ``total``, ``active``: parameters. ``ahead``: FLOPs of the forward by (ideal or executed, component), ``back`` those
    that training adds. ``halves``: twice the ideal FLOPs of the forward in equivalents of FP8. ``kept``: bytes of a
    row's cache; ``fixed`` those that do not grow; ``grows``: bytes of an entry of tables by the tokens between entries.
    ``kinds``: ops that are run. ``buffers`` and ``halves`` leave MTP out.
    """

    total: Counter[str]
    active: Counter[str]
    buffers: int
    ahead: Counter[tuple[str, str]]
    back: Counter[tuple[str, str]]
    halves: int
    kept: Counter[str]
    fixed: int
    grows: Counter[int]
    kinds: frozenset[str]

    @classmethod
    def of(cls, **sums: Any) -> Tally:
        """The tally of these sums, the others empty."""
        empty: dict[str, Any] = {f.name: Counter() for f in fields(cls)}
        return cls(**{**empty, "buffers": 0, "halves": 0, "fixed": 0, "kinds": frozenset(), **sums})


def ahead_of(part: Tally) -> Tally:
    """The tally of a part where it predicts further tokens: all of it counts as MTP, and it runs without a cache."""

    def moved(sums: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for (kind, _), n in sums.items():
            found[kind, "mtp"] += n
        return found

    total, active = (Counter({"mtp": sum(sums.values())}) for sums in (part.total, part.active))
    return Tally.of(total=total, active=active, ahead=moved(part.ahead), back=moved(part.back), kinds=part.kinds)


def combined(parts: Iterable[tuple[Tally, int]]) -> Tally:
    """The sum of parts, each so many times."""
    sums: dict[str, Any] = {f.name: Counter() for f in fields(Tally)} | {"buffers": 0, "halves": 0, "fixed": 0}
    kinds: set[str] = set()
    for part, times in parts:
        for name, total in sums.items():
            added = getattr(part, name)
            if isinstance(added, frozenset):
                kinds |= added
            elif isinstance(added, int):
                sums[name] = total + times * added
            else:
                for key, n in added.items():
                    total[key] += times * n
    return Tally(**{**sums, "kinds": frozenset(kinds)})


def node_cost(node: Node, w: Workload) -> Cost:
    """The cost of one run of a node."""
    return node.op.cost(w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs))


class Learning:
    """What training adds to the forward of every node of a graph, whose gradients may be known for rows that are not
    too `short`.
    """

    def __init__(self, graph: Graph, w: Workload, known: Gradients | None = None) -> None:
        found = gradients(graph, w) if known is None or short(graph, w) else known
        self.trained, self.constants, self.starts = found

    def runs(self, node: Node, times: int) -> tuple[tuple[bool, int], ...]:
        """How often a node runs, apart for first layers in which it reads what the layers begin with: constants."""
        first = min(times, self.starts[node])
        return tuple((start, n) for start, n in ((False, times - first), (True, first)) if n)

    def backward(self, node: Node, cost: Cost, *, start: bool = False) -> tuple[int, int]:
        """Ideal and executed FLOPs of a node's gradient; ``start``: of one that reads what the layers begin with."""
        if node not in self.trained:
            return 0, 0
        ideal = 2 * cost.useful if cost.useful_backward is None else cost.useful_backward
        if cost.backward == 2 * cost.executed and (start or any(v in self.constants for v in node.ins)):
            # A product of two operands: the gradient of each costs what the product does, and one has none.
            return cost.useful, cost.executed
        return ideal, cost.backward


def tally(graph: Graph, w: Workload, cache: Cache, precision: Precision, known: Gradients | None = None) -> Tally:
    """The sums of a graph under a workload; of its cache those of one row."""
    total, active, buffers = parameter_sums(graph)
    ahead, back, halves, kinds = flop_sums(graph, w, precision, known)
    kept, fixed, grows = cache_sums(graph, w.total, cache)
    return Tally(total, active, buffers, ahead, back, halves, kept, fixed, grows, kinds)


def parameter_sums(graph: Graph) -> tuple[Counter[str], Counter[str], int]:
    """Parameters, active ones by component, and buffers."""
    total: Counter[str] = Counter()
    active: Counter[str] = Counter()
    buffers = 0
    for scope, times in graph.scopes():
        for value in scope.params:
            spec = value.param
            assert spec is not None
            n, owner = math.prod(spec.shape), scope.owners[spec.name]
            if spec.buffer:
                buffers += times * n if owner != "mtp" else 0
                continue
            used, of = spec.share
            total[owner] += times * n
            active[owner] += times * (n * used // of)
    return total, active, buffers


def flop_sums(
    graph: Graph, w: Workload, precision: Precision, known: Gradients | None = None
) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]], int, frozenset[str]]:
    """FLOPs of the forward and what training adds, twice those in equivalents of FP8, and the ops that are run."""
    ahead: Counter[tuple[str, str]] = Counter()
    back: Counter[tuple[str, str]] = Counter()
    halves = 0
    kinds: set[str] = set()
    learns = Learning(graph, w, known)
    for node, count in graph.walk():
        kinds.add(node.op.kind)
        cost = node.op.arithmetic(w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs))
        if cost is NOTHING:
            continue
        run = back if isinstance(node.op, Loss) else ahead
        for start, times in learns.runs(node, count):
            ideal, executed = learns.backward(node, cost, start=start)
            if cost.useful or ideal:
                run["ideal", node.component] += times * cost.useful
                back["ideal", node.component] += times * ideal
                if run is ahead and node.component != "mtp":
                    halves += times * cost.useful * int(2 * WEIGHT[product_of(node, precision)])
            if cost.executed or executed:
                run["executed", node.component] += times * cost.executed
                back["executed", node.component] += times * executed
    return ahead, back, halves, frozenset(kinds)


def cache_sums(
    graph: Graph, tokens: int, cache: Cache, max_rewind: int = DEFAULT_REWIND
) -> tuple[Counter[str], int, Counter[int]]:
    """Bytes of a row's cache for so many tokens by component, those that do not grow, and those of growing entries."""
    kept: Counter[str] = Counter()
    grows: Counter[int] = Counter()
    fixed = 0
    for scope, times in graph.scopes(labels=False):
        for name, store in scope.states.items():
            row = sum(row_parts(store, element=cache.element, layout=cache.kind).values())
            whole = times * store.rows(tokens, max_rewind) * row
            kept[scope.owners[f"state.{name}"]] += whole
            if isinstance(store, Table):
                grows[store.every] += times * row
            else:
                fixed += whole
    return kept, fixed, grows
