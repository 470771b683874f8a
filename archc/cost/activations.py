"""What a training step keeps between forward and backward, and how much lives beside it: from the graph.

Every op runs its reference on tensors without numbers (`archc.ops.tape`), layers once for each distinct one. A policy
of recomputation decides what of a layer is kept until its backward:

- ``none``: all that derivatives read.
- ``full``: what goes into the layer.
- ``selective``: that, and what products of matrices and attention gave.
- ``mhc``: in blocks of layers, what goes into the block, what every sub-layer (memory, attention, feed-forward) gave,
  and what derivatives inside of sub-layers read; norms before them, and all of the residual path, run again
  (arXiv:2512.24880, section 4.3).

Counted are distinct storages that autograd holds at the end of a forward with labels: a view counts as its whole
storage, once. Not counted are parameters, buffers, and the ids that the caller brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod, sqrt
from typing import Any

from archc.cost.report import COMPONENTS
from archc.cost.setting import Recompute
from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import Type, Workload, size
from archc.ops.base import element
from archc.ops.tape import Back, Storage, Tape, Tensor
from archc.ops.time import TokenIds
from archc.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes of a forward with labels that live until its backward.

    ``layers``: of each layer of the main stack, in order (a block's are with its layers); ``rest``: outside of them,
    modules of multi-token prediction included; ``logits``: what losses keep of logits and targets; ``transient``: the
    most that lives beside all these at the worst moment. ``by_component`` adds up to the first three.
    """

    layers: tuple[int, ...]
    rest: int
    logits: int
    transient: int
    by_component: dict[str, int]

    @property
    def kept(self) -> int:
        """All that is kept."""
        return sum(self.layers) + self.rest + self.logits


def activations(graph: Graph, w: Workload, recompute: Recompute = "none") -> Activations:
    """What a training step of ``w`` keeps, under a policy of recomputation."""
    run = _Forward(graph, w, recompute)
    run.whole()
    return Activations(
        layers=tuple(run.layers),
        rest=run.rest,
        logits=run.logits,
        transient=0,
        by_component={c: run.by_component.get(c, 0) for c in COMPONENTS},
    )


# --- a layer -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What a layer hands on: an operand of its own (by number) or a new storage, and how it lies."""

    operand: int | None
    storage: int
    bytes: int
    kept: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What a layer keeps: of its own, by component; which of its operands; what it shares with others."""

    own: dict[str, int]
    operands: tuple[bool, ...]
    shared: tuple[Storage, ...]
    outs: tuple[_Made, ...]


class _Forward:
    """A forward of a whole graph."""

    def __init__(self, graph: Graph, w: Workload, recompute: Recompute) -> None:
        self.graph, self.w, self.recompute = graph, w, recompute
        self.t = Tape(w)
        self.values: dict[Value, Tensor | None] = {}
        self.counted: dict[int, Storage] = {}
        self.layers: list[int] = []
        self.rest = self.logits = 0
        self.by_component: dict[str, int] = {}
        self.time: list[Storage] = []
        self._known: dict[tuple, _Layer] = {}

    # --- the whole -------------------------------------------------------------------------------
    def whole(self) -> None:
        """Runs everything, and counts what it keeps."""
        self._steps()
        self._scope(self.graph.root)
        roots = [self._get(v) for v in self.graph.root.returns]
        logits, *_ = roots
        assert logits is not None
        losses = [self._cross_entropy(logits)]
        for scope in self.graph.predictions():
            self._steps(ahead=True)
            self._scope(scope)
            ahead = self._get(scope.returns[-1])
            assert ahead is not None
            losses.append(self._cross_entropy(ahead))
        for (_, experts), width in self.t.sums.items():
            # What is made of shares [3, E]: a bounded count of tokens, its square, and a product
            self.rest += self._count([Storage(self.t, 6 * experts * width)], "router")
        of_losses = [storage for loss in losses for storage in self._kept_by(loss)]
        self.logits += self._count(of_losses, "head")
        for storage, owner in _kept([*losses, *self.t.losses]):
            self.rest += self._count([storage], owner.component if isinstance(owner, Node) else "head")

    def _cross_entropy(self, logits: Tensor) -> Tensor:
        """The mean loss of a runtime's `cross_entropy`, of all columns."""
        t, (*some, vocab) = self.t, logits.shape
        t.owner = None
        wide = t.upcast(t.reshape(logits, (prod(some), vocab)))
        log = t.of_result(wide)
        total = t.made_of(t.new((), wide.width), (log,), (log, t.new((prod(some),), 8), t.new((), wide.width)))
        return t.div(total, t.new((), 8))

    @staticmethod
    def _kept_by(loss: Tensor) -> Iterator[Storage]:
        """What the steps from logits to a loss keep: those without an owner."""
        seen = [] if loss.back is None else [loss.back]
        while seen:
            back = seen.pop()
            yield from back.kept
            seen += [edge[0] for edge in back.edges if edge[0].owner is None and not edge[0].leaf]

    def _steps(self, *, ahead: bool = False) -> None:
        """What is computed once per forward; tokens ``ahead`` are not those that the caller gave."""
        t, batch = self.t, self.w.batch
        self.time = [t.new((batch,), 8).storage for _ in range(2)]
        if not ahead:
            self.positions = t.new((batch, self.w.new), 8).storage
        self.time.append(self.positions)
        for value in [v for node in self.graph.steps.nodes() for v in node.outs]:
            self.values.pop(value, None)
        self._scope(self.graph.steps)
        for node in self.graph.steps.nodes():
            if ahead and isinstance(node.op, TokenIds):
                self.values[node.outs[0]] = self.t.new((self.w.batch, self.w.new), 8)

    def _count(self, storages: Iterable[Storage], component: str) -> int:
        """Bytes of those that were not counted before."""
        total = 0
        for storage in storages:
            if not storage.given and id(storage) not in self.counted:
                self.counted[id(storage)] = storage
                total += storage.bytes
        self.by_component[component] = self.by_component.get(component, 0) + total
        return total

    # --- scopes ----------------------------------------------------------------------------------
    def _scope(self, scope: Scope) -> None:
        for value in scope.params:
            assert value.param is not None
            shape, width = value.param.shape, element(value.param.dtype, self.w)
            source = self.t.given if value.param.buffer else self.t.parameter
            self.values[value] = source(shape, width)
        for item in scope.items:
            if isinstance(item, Node):
                self._node(item)
            elif isinstance(item, Stack):
                self._stack(item)
            elif scope.ahead and item.slot and self.recompute != "none":
                self._module(item)
            elif not item.ahead:
                self._scope(item)

    def _get(self, value: Value) -> Tensor | None:
        return None if value.type.dtype == "none" else self.values[value]

    def _node(self, node: Node) -> None:
        t, ins = self.t, [self._get(v) for v in node.ins]
        t.owner = node
        try:
            made: Any = node.op.run(t, *ins)
        except NotImplementedError:
            made = self._unknown(node, [x for x in ins if x is not None])
        outs: Sequence[Tensor] = made if isinstance(made, tuple | list) else (made,)
        if not node.op.effect:
            self.values.update(zip(node.outs, outs, strict=True))

    def _unknown(self, node: Node, ins: list[Tensor]) -> Sequence[Tensor]:
        """An op that does not say what it keeps: what it reads."""
        outs = tuple(self.t.new(self._sizes(v.type), element(v.type.dtype, self.w)) for v in node.outs)
        return self.t.made_together(outs, ins, ins)

    def _sizes(self, type_: Type) -> tuple[int, ...]:
        return tuple(size(d, self.w) for d in type_.shape)

    # --- layers ----------------------------------------------------------------------------------
    def _stack(self, stack: Stack) -> None:
        state = [self._get(v) for v in stack.args]
        block = _block_size(stack)
        for i, index in enumerate(stack.schedule):
            given = [x for x in state if x is not None]
            layer = self._layer(stack.kinds[index], given)
            before = dict(self.by_component)
            begins = self.recompute == "mhc" and i % block == 0
            for operand, kept in zip(given, layer.operands, strict=True):
                if kept or begins:
                    self._count([operand.storage], "residual")
            self._count(layer.shared, "attention")
            for component, size_ in layer.own.items():
                self.by_component[component] = self.by_component.get(component, 0) + size_
            self.layers.append(sum(self.by_component.values()) - sum(before.values()))
            state = self._handed_on(layer, given)
        self.values.update(zip(stack.outs, state, strict=True))

    def _handed_on(self, layer: _Layer, given: list[Tensor]) -> list[Tensor | None]:
        fresh: dict[int, Storage] = {}
        state: list[Tensor | None] = []
        for out in layer.outs:
            if out.operand is not None:
                storage = given[out.operand].storage
            else:
                storage = fresh.setdefault(out.storage, Storage(self.t, out.bytes))
                if out.kept:
                    self.counted[id(storage)] = storage
            state.append(Tensor(storage, out.shape, out.strides, out.width, Back()))
        return state

    def _layer(self, kind: Scope, given: list[Tensor]) -> _Layer:
        """What a layer of a kind keeps, on operands that lie as the given ones do."""
        key = (kind, *((x.shape, x.strides, x.width, x.storage.bytes) for x in given))
        if key not in self._known:
            self._known[key] = self._run(kind, given)
        return self._known[key]

    def _run(self, kind: Scope, given: list[Tensor]) -> _Layer:
        operands = [Tensor(x.storage, x.shape, x.strides, x.width, Back()) for x in given]
        outer = {*(id(x.storage) for x in self.values.values() if x is not None), *map(id, self.time)}
        self.values.update(zip(kind.args, operands, strict=True))
        outs, found = self._region(kind, operands)
        own: dict[str, int] = {}
        shared: list[Storage] = []
        kept = {id(storage) for storage, _ in found}
        inputs = {id(x.storage): i for i, x in enumerate(operands)}
        for storage, owner in found:
            if storage.given or id(storage) in inputs:
                continue
            if id(storage) in outer:
                shared.append(storage)
            else:
                component = _component(owner)
                own[component] = own.get(component, 0) + storage.bytes
        layer = _Layer(
            own=own,
            operands=tuple(id(x.storage) in kept for x in operands),
            shared=tuple(shared),
            outs=tuple(
                _Made(
                    operand=inputs.get(id(x.storage)),
                    storage=id(x.storage),
                    bytes=x.storage.bytes,
                    kept=id(x.storage) in kept,
                    shape=x.shape,
                    strides=x.strides,
                    width=x.width,
                )
                for x in outs
            ),
        )
        for value in [v for v in self.values if kind.holds(v.scope)]:
            del self.values[value]
        return layer

    # --- recomputation ---------------------------------------------------------------------------
    def _region(self, scope: Scope, operands: list[Tensor]) -> tuple[list[Tensor], list[tuple[Storage, object]]]:
        """What a layer gives, and what is kept of it under the policy, each storage once with whom it is kept for."""
        t, losses = self.t, len(self.t.losses)
        t.products = [] if self.recompute == "selective" else None
        self._scope(scope)
        outs = [x for x in map(self._get, scope.returns) if x is not None]
        found = list(_kept([*outs, *t.losses[losses:]]))
        del t.losses[losses:]
        products, t.products = t.products or [], None
        if self.recompute == "none":
            return outs, found
        held: list[tuple[Storage, object]] = [(storage, None) for storage in self._of_the_step()]
        if self.recompute == "mhc":
            subs = _sub_layers(scope)
            gave = [x for x in map(self._get, (v for sub in subs for v in sub.returns)) if x is not None]
            held += [(x.storage, None) for x in gave]
            held += [(x, owner) for x, owner in found if any(sub.holds(_scope_of(owner)) for sub in subs)]
        else:
            held += [(x.storage, None) for x in operands] + products
        return outs, list({id(storage): (storage, owner) for storage, owner in held}.values())

    def _of_the_step(self) -> list[Storage]:
        """What a layer that runs again holds beside its operands: all of the step."""
        made = (self.values.get(v) for node in self.graph.steps.nodes() for v in node.outs)
        return [*(x.storage for x in made if x is not None), *self.time]

    def _module(self, scope: Scope) -> None:
        """A module of multi-token prediction, as a layer of its own."""
        given = {v: x for v in scope.args if (x := self._get(v)) is not None}
        operands = {v: Tensor(x.storage, x.shape, x.strides, x.width, Back()) for v, x in given.items()}
        self.values.update(operands)
        outs, found = self._region(scope, list(operands.values()))
        self.values.update(given)
        kept = [storage for storage, _ in found]
        if self.recompute == "mhc":
            kept += [x.storage for x in given.values()]
        edges = tuple((x.back, x.place, x.bytes, False) for x in given.values() if x.back is not None)
        owner = next(item for item in scope.nodes())
        for value, out in zip(scope.returns, outs, strict=True):
            again = Back(tuple(kept), edges, order=self.t.order, owner=owner)
            self.values[value] = Tensor(out.storage, out.shape, out.strides, out.width, again)


def _sub_layers(layer: Scope) -> list[Scope]:
    """What stands on the residual path of a layer: memory, attention, feed-forward."""
    return [item for item in layer.items if isinstance(item, Scope) and item.slot]


def _scope_of(owner: object) -> Scope | None:
    return owner.scope if isinstance(owner, Node) else None


def _component(owner: object) -> str:
    return owner.component if isinstance(owner, Node) else "residual"


def _block_size(stack: Stack) -> int:
    """Layers of a block of the policy ``mhc``: those that have about sqrt(n L / (n + 2)) of the L sub-layers, for n
    streams, at least one (arXiv:2512.24880, section 4.3.2). As packages do it.
    """
    shape = stack.args[0].shape
    streams = shape[-2] if len(shape) > 3 else 1
    layers, subs = len(stack.schedule), sum(len(_sub_layers(stack.kinds[i])) for i in stack.schedule)
    assert isinstance(streams, int)
    return max(1, int(sqrt(streams * subs / (streams + 2)) * layers / max(1, subs) + 0.5))


def _kept(roots: Iterable[Tensor]) -> Iterator[tuple[Storage, object]]:
    """Storages that derivatives of some tensors read, each once, with what first keeps it."""
    todo = [x.back for x in roots if x.back is not None]
    backs = {id(b): b for b in todo}
    while todo:
        for edge in todo.pop().edges:
            if id(edge[0]) not in backs:
                backs[id(edge[0])] = edge[0]
                todo.append(edge[0])
    seen: set[int] = set()
    for back in sorted(backs.values(), key=lambda b: b.order):
        for storage in back.kept:
            if id(storage) not in seen:
                seen.add(id(storage))
                yield storage, back.owner
