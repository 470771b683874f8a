"""How tensor parallelism divides a model: which parameters it splits, by what, and which it has to repeat.

Found on the graph, not by name. A projection back to the stream (role `output`) is split by its input channels, what
feeds it by its output channels (Shoeybi et al. 2019, arXiv:1909.08053): the gate and up matrices of a feed-forward, the
queries, keys and values of attention by heads, and groups of an output projection. The embedding and the head are split
by tokens of the vocabulary, routed experts by expert (see `Parallel.ep`). All else is repeated on every device: norms,
routers, latents that all heads read, keys that all heads share, compressors, indexers, residual mixing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import starmap

from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import ParamSpec, Workload, numel, size
from archc.ops.expert import Dispatch, GroupedLinear, GroupMask
from archc.ops.latent import OverLatents
from archc.ops.matrix import Einsum, Linear
from archc.ops.time import Append, Recall
from archc.ops.view import Unflatten, UnflattenRows
from archc.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How the tokens of a layer meet its experts: ``active`` of ``experts`` each, out of ``keep`` of ``groups``."""

    experts: int
    active: int
    width: int
    groups: int = 1
    keep: int = 1

    def reached(self, parts: int) -> float:
        """Of ``parts`` equal parts of the experts, in order, how many a token reaches: the number expected where every
        choice that the groups allow is as likely.
        """
        if parts <= 1:
            return 1.0
        size, kept = self.experts // self.groups, self.experts // self.groups * self.keep
        if parts >= self.groups or self.groups % parts:
            # A part lies in one group, or across several: choices are then taken as if parts did not see groups.
            part = self.experts / parts
            share = self.keep / self.groups if part <= size else 1.0
            pool = kept if part <= size else self.experts
            return parts * share * (1 - _missed(pool, part, self.active))
        each = self.groups // parts  # whole groups
        return parts * sum(
            math.comb(each, j) * math.comb(self.groups - each, self.keep - j) / math.comb(self.groups, self.keep)
            * (1 - _missed(kept, j * size, self.active))
            for j in range(max(0, self.keep - self.groups + each), min(each, self.keep) + 1)
        )  # fmt: skip


def _missed(pool: int, part: float, active: int) -> float:
    """The chance that none of ``active`` different choices out of ``pool`` falls into ``part`` of them."""
    chance = 1.0
    for i in range(active):
        chance *= max(0.0, pool - part - i) / (pool - i)
    return chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What runs, is gathered and is handed on as one: a layer (of a kind), what stands before or after the layers, a
    module that predicts further tokens.
    """

    name: str
    scopes: tuple[Scope, ...]
    layers: tuple[int, ...] = ()
    """Layers of the stack that are this unit; none for what stands outside."""
    layer: bool = False
    """Whether it is a layer, or a module that predicts further tokens: run again, and gathered again, as one."""

    def params(self) -> Iterator[Value]:
        """Parameters and buffers that it owns."""
        for scope in self.scopes:
            yield from scope.params

    def nodes(self) -> Iterator[Node]:
        """The nodes that run in it."""
        for scope in self.scopes:
            yield from (item for item in scope.items if isinstance(item, Node))


@dataclass(frozen=True, slots=True)
class Units:
    """A model as a pipeline sees it: before the layers, distinct layers, after them, further tokens."""

    first: Unit
    kinds: tuple[Unit, ...]
    schedule: tuple[int, ...]
    last: Unit
    ahead: tuple[Unit, ...]

    def __iter__(self) -> Iterator[Unit]:
        return iter((self.first, *self.kinds, self.last, *self.ahead))


@lru_cache(maxsize=16)
def units(graph: Graph) -> Units:
    """The units of a model: its layers are those of its one stack."""
    ahead = graph.predictions()
    outside = [s for s in _outside(graph.root) if not any(p.holds(s) for p in ahead)]
    stack = next((i for s in outside for i in s.items if isinstance(i, Stack)), None)
    kinds = () if stack is None else tuple(starmap(partial(_layer, stack), enumerate(stack.kinds)))
    before, after = _sides(outside)
    return Units(
        first=Unit(name="embedding", scopes=before),
        kinds=kinds,
        schedule=() if stack is None else stack.schedule,
        last=Unit(name="head", scopes=after),
        ahead=tuple(Unit(name=f"mtp.{k}", scopes=tuple(_outside(scope)), layer=True) for k, scope in enumerate(ahead)),
    )


def _layer(stack: Stack, number: int, kind: Scope) -> Unit:
    return Unit(name=kind.cls, scopes=tuple(kind.scopes()), layers=stack.indices(number), layer=True)


def _outside(scope: Scope) -> Iterator[Scope]:
    """A scope and those inside, stacks left out."""
    yield scope
    for child in (*scope.children(), *scope.functions()):
        yield from _outside(child)


def _sides(scopes: list[Scope]) -> tuple[tuple[Scope, ...], tuple[Scope, ...]]:
    """Copies of scopes outside of the stack: with what runs (or is looked up) before it, and with all else."""
    before, after = [], []
    for scope in scopes:
        at = next((i for i, item in enumerate(scope.items) if isinstance(item, Stack)), None)
        early = [] if at is None else [item for item in scope.items[:at] if isinstance(item, Node)]
        late = [item for item in scope.items[0 if at is None else at + 1 :] if isinstance(item, Node)]
        table = {v for v in scope.params if v.param is not None and v.param.role == "embedding"}
        for side, items, params in (
            (before, early, [v for v in scope.params if v in table]),
            (after, late, [v for v in scope.params if v not in table]),
        ):
            part = Scope(scope.name, scope.cls, scope.parent)
            part.items, part.params, part.owners, part.states = list(items), params, scope.owners, {}
            side.append(part)
    return tuple(before), tuple(after)


@dataclass(frozen=True, slots=True)
class Split:
    """How tensor parallelism divides one parameter: at most ``parts`` ways along ``axis``."""

    axis: int
    parts: int

    def ways(self, tp: int) -> int:
        """The devices of ``tp`` that hold different parts; the others repeat them."""
        return math.gcd(self.parts, tp)


@lru_cache(maxsize=16)
def splits(graph: Graph) -> dict[Value, Split]:
    """The parameters that tensor parallelism splits. Routed experts are not among them."""
    found: dict[Value, Split] = {}
    for scope, _ in graph.scopes():
        for value in scope.params:
            spec = value.param
            assert spec is not None
            if spec.role in ("embedding", "head") and not spec.buffer and len(spec.shape) == 2:
                found[value] = Split(0, spec.shape[0])
        for item in scope.items:
            if isinstance(item, Node) and isinstance(item.op, Linear) and item.op.role == "output":
                # Its scope is the module of the sub-layer: what stands outside of it is the residual stream.
                fed = _feeds(item.ins[0], scope, item.ins[0].type.last, found)
                if fed:
                    found[item.ins[1]] = Split(1, fed)
    return found


def _feeds(value: Value, module: Scope, parts: int, found: dict[Value, Split]) -> int:
    """Notes what makes a value inside a module, split ``parts`` ways by its channels; returns how often it can be: 0
    where nothing that makes it can.
    """
    node = value.node
    if node is None or not module.holds(node.scope) or value.type.dtype not in ("act", "fp32"):
        return 0
    op = node.op
    if isinstance(op, Linear) and len(node.outs[0].type.shape) > 3:  # of each head: repeated, what it reads is split
        return _feeds(node.ins[0], module, parts, found)
    if isinstance(op, Linear):
        parts = math.gcd(parts, op.out)
        for param in node.ins[1:]:
            found[param] = Split(0, parts)
        return parts
    if isinstance(op, GroupedLinear):
        return 0
    if op.fused == "attention":
        return _attention(node, module, found)
    if isinstance(op, Einsum):
        weight = next((v for v in node.ins if v.node is not None and isinstance(v.node.op, UnflattenRows)), None)
        if weight is None or weight.node is None:
            return 0
        groups = weight.type.fixed(0)
        fed = _feeds(node.ins[0], module, groups, found)
        if fed:
            found[weight.node.ins[0]] = Split(0, math.gcd(groups, fed))
        return math.gcd(groups, fed)
    if isinstance(op, Unflatten) and len(op.sizes) > 1:
        return _feeds(node.ins[0], module, op.sizes[0], found)
    if isinstance(op, Append | Recall):
        return _feeds(node.ins[0], module, parts, found)
    fed = [_feeds(v, module, parts, found) for v in node.ins if v.param is None]
    return math.gcd(*(f for f in fed if f)) if any(fed) else 0


def _attention(node: Node, module: Scope, found: dict[Value, Split]) -> int:
    """The heads of an attention; its queries are split by them, keys and values by theirs, if they have any."""
    heads = node.outs[0].type.fixed(2)
    _feeds(node.ins[0], module, heads, found)
    if isinstance(node.op, OverLatents):
        found[node.ins[2]] = Split(0, heads)
    for value in node.ins[1:]:
        if len(value.type.shape) == 4:
            _feeds(value, module, value.type.fixed(2), found)
    return heads


def routing(unit: Unit) -> Routing | None:
    """How the tokens of a layer meet its experts; None where it has none."""
    dispatch = experts = mask = None
    for node in unit.nodes():
        if isinstance(node.op, Dispatch):
            dispatch = node
        elif isinstance(node.op, GroupedLinear):
            experts = node.op
        elif isinstance(node.op, GroupMask):
            mask = node.op
    if dispatch is None or experts is None:
        return None
    assert isinstance(dispatch.op, Dispatch)
    groups, keep = (1, 1) if mask is None else (mask.groups, mask.keep)
    return Routing(
        experts=dispatch.op.experts,
        active=experts.active,
        width=dispatch.outs[0].type.last,
        groups=groups,
        keep=keep,
    )


def routed(spec: ParamSpec) -> bool:
    """Whether a parameter belongs to routed experts: its first dim counts them."""
    return spec.share != (1, 1) and spec.role != "table"


def rows_read(spec: ParamSpec) -> int:
    """Rows of a table that a token reads."""
    return spec.share[0]


def handed_on(graph: Graph, w: Workload) -> int:
    """Elements that a layer hands to the next: the residual stream, or all of them."""
    for scope, _ in graph.scopes(labels=False):
        for item in scope.items:
            if isinstance(item, Stack):
                return sum(numel(v.shape, w) for v in item.args)
    return 0


def cached_rows(unit: Unit, w: Workload, tp: int = 1) -> tuple[int, int]:
    """Elements of keys, values or entries that a layer's queries need of tokens on other devices when a sequence is
    spread: of the tokens of workload ``w`` all of them, and those of the windows' tails, which only a neighbour needs.
    A device of ``tp`` has its heads' alone, where keys have heads.
    """
    whole = tail = 0
    for node in unit.nodes():
        if not isinstance(node.op, Append | Recall):
            continue
        shape = node.ins[0].shape
        heads = shape[2] if len(shape) == 4 else 1
        ways = math.gcd(heads, tp) if isinstance(heads, int) else 1
        if isinstance(node.op, Append):
            whole += numel(shape, w) // ways
        else:
            tail += w.batch * min(node.op.keep, w.new) * math.prod(size(d, w) for d in shape[2:]) // ways
    return whole, tail
