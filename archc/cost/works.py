"""What each kernel of a graph has to do under a workload: FLOPs by number format, and bytes that it moves.

FLOPs are the ideal ones of `Op.cost`. Bytes are the least that the kernel can move: what enters it read once, what
leaves it written once, at the width in which it is stored; of tables, experts and entries only what is picked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from archc.cost.formats import held, product_of, size_of
from archc.cost.kernels import Kernel, Sources, kernels, sources
from archc.cost.placement import routed, units
from archc.graph import Graph, Node, Value
from archc.graph.gradient import FLOATS, gradients, short
from archc.ops import Cost, Workload, numel
from archc.ops.base import nbytes
from archc.ops.expert import GroupedLinear
from archc.ops.latent import OverLatents, Stage
from archc.ops.row import RowOp
from archc.ops.time import Append, Recall, row_parts
from archc.schema import Cache, Number, Precision

Engine = Literal["product", "attention", "rows"]
"""What computes: matrix products, attention and index scores in one fused kernel, arithmetic within rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """FLOPs that one engine computes in one format."""

    engine: Engine
    number: Number
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One kernel's run, forward or backward, on a device that does all of it.

    ``weights`` are bytes of each parameter that it reads, ``gradients`` those of gradients of parameters that it reads
    and writes; ``results`` those of ``written`` that products write when they have computed them; ``repeated`` those of
    ``read`` that every device of tp reads. ``stage`` names a part of what one node does.
    """

    kernel: Kernel
    sums: tuple[Sum, ...]
    read: float
    written: float
    results: float
    weights: tuple[tuple[Value, float], ...]
    gradients: tuple[tuple[Value, float], ...]
    launches: int
    repeated: float = 0.0
    cached: float = 0.0
    """Bytes of ``read`` that a cache holds."""
    over_keys: bool = False
    """Whether cp spreads it with the keys."""
    stage: str = ""

    @property
    def main(self) -> Node:
        """The node that it is about: the one with FLOPs, or the last."""
        return next((n for n in self.kernel.nodes if not isinstance(n.op, RowOp)), self.kernel.nodes[-1])

    @property
    def what(self) -> str:
        """What it is called in an explanation."""
        named = [n.name or n.op.kind for n in self.kernel.nodes]
        whole = named[0] if len(named) == 1 else f"{len(named)} ops to {named[-1]}"
        return f"{whole}: {self.stage}" if self.stage else whole

    @property
    def multiplies(self) -> bool:
        """Whether it is a matrix product or an attention: what selective recomputation keeps the results of."""
        return any(s.engine != "rows" for s in self.sums)


@dataclass(frozen=True, slots=True)
class Forms:
    """Works that give the same in several ways, of which a machine takes the fastest."""

    ways: tuple[tuple[Work, ...], ...]


class Amounts:
    """The works of a graph under a workload."""

    def __init__(self, graph: Graph, w: Workload, precision: Precision, cache: Cache) -> None:
        self.w, self.precision, self.cache = w, precision, cache
        self.src: Sources = sources(graph)
        self.training = not w.cached
        self.trained, self.constants = frozenset[Node](), frozenset[Value]()
        if self.training:
            self.trained, self.constants = _learning(graph, w if short(graph, w) else None)
        self.forward: dict[str, tuple[Work | Forms, ...]] = {}
        self.backward: dict[str, tuple[Work, ...]] = {}
        for name, group in kernels(graph).items():
            run = [k for k in group if not self._idle(k)]
            self.forward[name] = tuple(map(self._forward, run))
            if self.training:
                self.backward[name] = tuple(work for kernel in run for work in self._backward(kernel))

    def _idle(self, kernel: Kernel) -> bool:
        """Whether there is nothing to do: losses in inference, putting rows into a state where there is none."""
        if self.training:
            return all(isinstance(node.op, Append | Recall) for node in kernel.nodes)
        return all(node.op.effect for node in kernel.nodes)

    # --- bytes -----------------------------------------------------------------------------------
    def bytes_of(self, value: Value) -> float:
        """Bytes of a value where it lies: rows of a state as the cache stores them."""
        store = self.src.stores.get(value)
        if store is None or not self.w.cached:
            return nbytes(value.type, self.w)
        return numel(value.shape[:2], self.w) * self._row(value)

    def _row(self, value: Value) -> int:
        store = self.src.stores[value]
        return sum(row_parts(store, element=self.cache.element, layout=self.cache.kind).values())

    def _written(self, value: Value) -> float:
        """Bytes of a result: into a state only the new rows."""
        node = value.node
        assert node is not None
        if value not in self.src.stores or not self.w.cached:
            return nbytes(value.type, self.w)
        rows = numel(node.ins[0].shape[:2], self.w)
        if isinstance(node.op, Recall):
            rows = min(rows, self.w.batch * node.op.keep)
        return rows * self._row(value)

    def _weight(self, value: Value) -> float:
        assert value.param is not None
        return sum(size_of(held(value.param, self.precision, training=self.training), value.param.shape))

    def _shares(self, kernel: Kernel) -> dict[Value, float]:
        """The part of each operand that the kernel needs; of views the part that they show."""
        found: dict[Value, dict[Value, float]] = {}
        for node in kernel.nodes:
            shares = node.op.shares(self.w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs))
            for value, share in zip(node.ins, shares, strict=True):
                for root in self.src.roots(value):
                    seen = 1.0
                    if value is not root and root.param is None and (whole := numel(root.shape, self.w)):
                        seen = min(1.0, numel(value.shape, self.w) / whole)
                    views = found.setdefault(root, {})
                    views[value] = max(views.get(value, 0.0), share * seen)
        return {root: min(1.0, sum(views.values())) for root, views in found.items()}

    # --- kernels ---------------------------------------------------------------------------------
    def _cost(self, node: Node) -> Cost:
        return node.op.cost(self.w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs))

    def _sums(self, node: Node, flops: float) -> Iterator[Sum]:
        """FLOPs of a node by engine and format."""
        if not flops:
            return
        number = product_of(node, self.precision)
        if node.op.fused:
            yield Sum(engine="attention", number=number, flops=flops)
        elif isinstance(node.op, RowOp):
            yield Sum(engine="rows", number="fp32", flops=flops)
        else:
            yield Sum(engine="product", number=number, flops=flops)

    def _forward(self, kernel: Kernel) -> Work | Forms:
        node = kernel.nodes[0]
        if isinstance(node.op, OverLatents):
            ways = dict(self._latent_forms(kernel, node, node.op))
            return Forms((ways[node.op.trained_as],) if self.training else tuple(ways.values()))
        shares = self._shares(kernel)
        sums = tuple(s for node in kernel.nodes for s in self._sums(node, self._cost(node).useful))
        written = sum(map(self._written, kernel.writes))
        products = any(s.engine == "product" for s in sums) and not kernel.rows
        return Work(
            kernel=kernel,
            sums=sums,
            read=sum(shares.get(v, 1.0) * self.bytes_of(v) for v in kernel.reads),
            written=written,
            results=written if products else 0.0,
            weights=tuple((v, self._taken(v, shares)) for v in kernel.params),
            gradients=(),
            launches=max(1, sum(s.engine != "rows" for s in sums) if not kernel.rows else 1),
            repeated=self._repeated(kernel, sums, shares),
            cached=sum(shares.get(v, 1.0) * self.bytes_of(v) for v in kernel.reads if self._in_cache(v)),
        )

    def _in_cache(self, value: Value) -> bool:
        return self.w.cached and value in self.src.stores

    def _repeated(self, kernel: Kernel, sums: tuple[Sum, ...], shares: dict[Value, float]) -> float:
        """Bytes of entries [B, T, C] that all heads of an attention share: whatever its heads, a device reads them."""
        if not any(s.engine == "attention" for s in sums):
            return 0.0
        return sum(shares.get(v, 1.0) * self.bytes_of(v) for v in kernel.reads if len(v.shape) == 3)

    def _taken(self, param: Value, shares: dict[Value, float]) -> float:
        """Bytes of a parameter that are read; of routed experts all, for which are chosen depends on the plan."""
        assert param.param is not None
        return self._weight(param) * (1.0 if routed(param.param) else shares.get(param, 1.0))

    def _backward(self, kernel: Kernel) -> Iterator[Work]:
        nodes = [node for node in kernel.nodes if node in self.trained]
        if not nodes:
            return
        if isinstance(nodes[0].op, OverLatents):
            yield from self._latent_backward(kernel, nodes[0], nodes[0].op)
            return
        shares = self._shares(kernel)
        sums = tuple(s for node in nodes for s in self._sums(node, self._gradient(node)))
        arriving = sum(nbytes(v.type, self.w) for v in kernel.writes if v.type.dtype in FLOATS)
        seen = sum(shares.get(v, 1.0) * nbytes(v.type, self.w) for v in kernel.reads)
        leaving = sum(shares.get(v, 1.0) * nbytes(v.type, self.w) for v in kernel.reads if self._learns(v))
        learned = [v for v in kernel.params if v.param is not None and not v.param.buffer]
        own = tuple((v, self._share(v, shares) * self._gradient_bytes(v)) for v in learned)
        products = any(s.engine == "product" for s in sums) and not kernel.rows
        # A product has two gradients, each of which reads what arrives.
        halves = 2 if products and leaving and own else 1
        yield Work(
            kernel=kernel,
            sums=sums,
            read=halves * arriving + seen,
            written=leaving,
            results=leaving if products else 0.0,
            weights=tuple((v, self._taken(v, shares)) for v in kernel.params),
            gradients=own,
            launches=halves,
            repeated=self._repeated(kernel, sums, shares),
        )

    # --- latent attention ------------------------------------------------------------------------
    def _stages(self, node: Node, op: OverLatents) -> Iterator[tuple[str, tuple[Stage, ...]]]:
        yield from op.forms(self.w, tuple(v.type for v in node.ins), tuple(v.type for v in node.outs)).items()

    def _latents(self, node: Node) -> float:
        """Bytes of all entries, as the cache stores them."""
        return sum(map(self.bytes_of, self.src.roots(node.ins[1])))

    def _latent_sum(self, node: Node, stage: Stage) -> Sum:
        weight = node.ins[2].param
        assert weight is not None
        if stage.weight:
            return Sum(engine="product", number=self.precision.product(weight.role), flops=stage.flops)
        return Sum(engine="attention", number=product_of(node, self.precision), flops=stage.flops)

    def _latent_forms(self, kernel: Kernel, node: Node, op: OverLatents) -> Iterator[tuple[str, tuple[Work, ...]]]:
        entries = self._latents(node)
        for form, stages in self._stages(node, op):
            yield (
                form,
                tuple(
                    Work(
                        kernel=kernel,
                        sums=(self._latent_sum(node, stage),),
                        read=stage.read * self.w.act + stage.latents * entries,
                        written=stage.written * self.w.act,
                        results=stage.written * self.w.act if stage.weight else 0.0,
                        weights=tuple((v, stage.weight * self._weight(v)) for v in kernel.params if stage.weight),
                        gradients=(),
                        launches=1,
                        repeated=stage.latents * entries,
                        cached=stage.latents * entries if self.w.cached else 0.0,
                        over_keys=stage.over_keys,
                        stage=f"{stage.name} ({form})",
                    )
                    for stage in stages
                ),
            )

    def _latent_backward(self, kernel: Kernel, node: Node, op: OverLatents) -> Iterator[Work]:
        """The gradient of each stage of the form that training runs, the last first."""
        entries, learns = self._latents(node), self._learns(node.ins[1])
        learned = [v for v in kernel.params if v.param is not None and not v.param.buffer]
        for stage in reversed(dict(self._stages(node, op))[op.trained_as]):
            own = tuple((v, stage.weight * self._gradient_bytes(v)) for v in learned if stage.weight)
            halves = 2 if stage.weight and learns and own else 1
            total = self._latent_sum(node, stage)
            leaving = stage.read * self.w.act + (stage.latents * entries if learns else 0.0)
            yield Work(
                kernel=kernel,
                sums=(Sum(engine=total.engine, number=total.number, flops=2 * total.flops),),
                read=stage.read * self.w.act + stage.latents * entries + halves * stage.written * self.w.act,
                written=leaving,
                results=leaving if stage.weight else 0.0,
                weights=tuple((v, stage.weight * self._weight(v)) for v in kernel.params if stage.weight),
                gradients=own,
                launches=halves,
                repeated=stage.latents * entries,
                over_keys=stage.over_keys,
                stage=stage.name,
            )

    @staticmethod
    def _share(param: Value, shares: dict[Value, float]) -> float:
        return 1.0 if param.param is not None and routed(param.param) else shares.get(param, 1.0)

    def _gradient_bytes(self, param: Value) -> float:
        assert param.param is not None
        each = 4 if param.param.dtype == "fp32" else self.precision.gradient_bytes(param.param.role)
        return each * math.prod(param.param.shape)

    def _learns(self, value: Value) -> bool:
        return value.type.dtype in FLOATS and value.step is None and value not in self.constants

    def _gradient(self, node: Node) -> float:
        """Ideal FLOPs of a node's gradient (as `cost.count.Learning` has them)."""
        cost = self._cost(node)
        if cost.backward == 2 * cost.executed and any(v in self.constants for v in node.ins):
            return cost.useful
        return 2 * cost.useful if cost.useful_backward is None else cost.useful_backward


@lru_cache(maxsize=16)
def _learning(graph: Graph, w: Workload | None) -> tuple[frozenset[Node], frozenset[Value]]:
    found = gradients(graph, w)
    return frozenset(found.trained), frozenset(found.constants)


@lru_cache(maxsize=64)
def amounts(graph: Graph, w: Workload, precision: Precision, cache: Cache) -> Amounts:
    """The works of a graph under a workload, its weights and its cache stored as these say."""
    return Amounts(graph, w, precision, cache)


def unit_names(graph: Graph) -> dict[int, str]:
    """The key in `Amounts.forward` of each unit of `placement.units`, by the unit's identity."""
    return {id(unit): f"{i}" for i, unit in enumerate(units(graph))}


def chosen(work: Work, tokens: float) -> float:
    """The share of routed experts that ``tokens`` read: 1 for what is no product of experts."""
    for node in work.kernel.nodes:
        if isinstance(node.op, GroupedLinear):
            return node.op.chosen(node.ins[1].type.last, tokens)
    return 1.0
