"""A forward of a training step over tensors without numbers, layer by layer, under a policy of recomputation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod, sqrt
from typing import Any

from archc.cost.backward import backward, kept
from archc.cost.setting import Recompute
from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import Workload, size
from archc.ops.base import element
from archc.ops.tape import Back, Storage, Tape, Tensor
from archc.ops.time import TokenIds
from archc.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a layer hands on: an operand of its own (by number) or a new storage, and how it lies."""

    operand: int | None
    storage: int
    bytes: int
    kept: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of a kind, on operands that lie in one way.

    What it keeps: ``own`` bytes by component; which of its ``operands``; what it shares with others. Bytes beyond that:
    ``first`` at most while it runs, ``forward`` where derivatives keep what they read; ``saved`` what they read,
    whatever is kept of it; ``backward`` at most beside this while gradients are made, and ``whole`` with those of its
    parameters, which are ``leaves`` in the end, the largest of them ``largest``.
    """

    own: dict[str, int]
    operands: tuple[bool, ...]
    shared: tuple[Storage, ...]
    outs: tuple[Made, ...]
    first: int
    forward: int
    saved: int
    backward: int
    whole: int
    leaves: int
    largest: int

    @property
    def bytes(self) -> int:
        """What it keeps of its own."""
        return sum(self.own.values())


class Forward:
    """A forward of a whole graph; `run` leaves what lives on its tape."""

    def __init__(self, graph: Graph, w: Workload, recompute: Recompute) -> None:
        self.graph, self.w, self.recompute = graph, w, recompute
        self.t = Tape(w)
        self.values: dict[Value, Tensor | None] = {}
        self.counted: dict[int, Storage] = {}
        self.layers: list[int] = []
        self.by_component: dict[str, int] = {}
        self.time: list[Storage] = []
        self.gave: list[Storage] = []
        """Results of sub-layers of the layer that runs."""
        self._known: dict[tuple, Layer] = {}
        self._dying: dict[Scope, list[list[Value]]] = {}

    def run(self) -> list[Tensor]:
        """The losses of all predictions, the main model's last; those of layers are on the tape."""
        self._steps()
        self._scope(self.graph.root)
        losses = []
        for scope in self.graph.predictions():
            self._steps(ahead=True)
            self._scope(scope)
            losses.append(self._cross_entropy(scope.returns[-1]))
            self._forget(scope, but=scope.returns[1:2])
        losses.append(self._cross_entropy(self.graph.root.returns[0]))
        t = self.t
        for (_, experts), (width, owner) in t.sums.items():
            # What is made of shares [3, E]: a bounded count of tokens, its square, and a product
            loss = t.new((), width)
            loss.back = Back((t.new((6, experts), width).storage,), order=t.order, owner=owner)
            t.losses.append(loss)
        self.values.clear()
        return losses

    def count(self, storages: Iterable[Storage], component: str) -> int:
        """Bytes of those that were not counted before."""
        total = 0
        for storage in storages:
            if not storage.given and id(storage) not in self.counted:
                self.counted[id(storage)] = storage
                total += storage.bytes
        self.by_component[component] = self.by_component.get(component, 0) + total
        return total

    def _cross_entropy(self, value: Value) -> Tensor:
        """The mean loss of a runtime's `cross_entropy`, of all columns. It belongs to no node."""
        logits, t = self.values[value], self.t
        assert logits is not None
        *some, vocab = logits.shape
        t.owner = None
        wide = t.upcast(t.reshape(logits, (prod(some), vocab)))
        log = t.of_result(wide)
        targets = t.new((prod(some),), 8)
        total = t.made_of(t.new((), wide.width), (log,), (log, targets, t.new((), wide.width)))
        return t.div(total, t.new((), 8))

    def _steps(self, *, ahead: bool = False) -> None:
        """What is computed once per forward; tokens ``ahead`` are not those that the caller gave."""
        t, batch = self.t, self.w.batch
        self.time = [t.new((batch,), 8).storage for _ in range(2)]
        if not ahead:
            self.positions = t.new((batch, self.w.new), 8).storage
        self.time.append(self.positions)
        nodes = list(self.graph.steps.nodes())
        for node in nodes:
            self._node(node)
            if ahead and isinstance(node.op, TokenIds):
                self.values[node.outs[0]] = t.new((batch, self.w.new), 8)

    # --- scopes ----------------------------------------------------------------------------------
    def _scope(self, scope: Scope) -> None:
        for value in scope.params:
            assert value.param is not None
            source = self.t.given if value.param.buffer else self.t.parameter
            self.values[value] = source(value.param.shape, element(value.param.dtype, self.w))
        for item, dying in zip(scope.items, self._lives(scope), strict=True):
            if isinstance(item, Node):
                self._node(item)
            elif isinstance(item, Stack):
                self._stack(item)
            elif scope.ahead and item.slot and self.recompute != "none":
                self._module(item)
            elif not item.ahead:
                self._scope(item)
                self._forget(item, but=item.returns)
                if item.slot and self.recompute == "mhc":
                    self.gave += [x.storage for x in map(self._get, item.returns) if x is not None]
            for value in dying:
                self.values.pop(value, None)

    def _lives(self, scope: Scope) -> list[list[Value]]:
        """Values that end with each item: those without a name after the last use, others when the name is given to
        another, as variables of the printed forward.
        """
        if scope not in self._dying:
            last: dict[Value, int] = {}
            names: dict[str, Value] = {}
            dying: list[list[Value]] = [[] for _ in scope.items]
            ends: dict[Value, int] = {}
            # Predictions of further tokens run after all else
            later = {v for s in scope.items if isinstance(s, Scope) and s.ahead for n in s.nodes() for v in n.ins}
            for i, item in enumerate(scope.items):
                nodes = [item] if isinstance(item, Node) else list(item.nodes())
                last.update((v, i) for node in nodes for v in node.ins)
                if not isinstance(item, Node):
                    last.update((v, i) for v in item.args)
                for value in item.outs if isinstance(item, Node | Stack) else item.returns:
                    last.setdefault(value, i)
                    name = scope.hints.get(value)
                    if name is None:
                        ends[value] = -1
                    elif names.get(name, value) is not value:
                        ends[names[name]] = i
                    if name is not None:
                        names[name] = value
            for value, end in ends.items():
                if (
                    value not in scope.returns
                    and value not in later
                    and (value.scope is not scope or value.node is not None)
                ):
                    dying[max(end, last[value])].append(value)
            self._dying[scope] = dying
        return self._dying[scope]

    def _forget(self, scope: Scope, but: Sequence[Value] = ()) -> None:
        """A module has run: only what it gives back stays."""
        for inner in scope.scopes():
            for item in inner.items:
                if isinstance(item, Node):
                    for value in item.outs:
                        if value not in but:
                            self.values.pop(value, None)

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
        outs = tuple(
            self.t.new(tuple(size(d, self.w) for d in v.type.shape), element(v.type.dtype, self.w)) for v in node.outs
        )
        return self.t.made_together(outs, ins, ins)

    # --- layers ----------------------------------------------------------------------------------
    def _stack(self, stack: Stack) -> None:
        t, block = self.t, _block_size(stack)
        given = [x for v in stack.args if (x := self._get(v)) is not None]
        edges = tuple((x.back, x.place, x.bytes, False) for x in given if x.back is not None)
        state = list(given)
        ran: list[tuple[Layer, list[Storage], Storage]] = []
        begins = False
        for i, index in enumerate(stack.schedule):
            layer = self._layer(stack.kinds[index], state)
            before = sum(self.by_component.values())
            # What goes into a block is kept for the first of its layers that does anything
            begins = self.recompute == "mhc" and (begins or i % block == 0)
            held = [
                x.storage
                for x, is_kept in zip(state, layer.operands, strict=True)
                if is_kept or (begins and layer.saved)
            ]
            begins = begins and not layer.saved
            self.count(held, "residual")
            self.count(layer.shared, "attention")
            for component, bytes_ in layer.own.items():
                self.by_component[component] = self.by_component.get(component, 0) + bytes_
            self.layers.append(sum(self.by_component.values()) - before)
            t.use(layer.first)
            ran.append((layer, [*held, *layer.shared], Storage(t, layer.bytes)))
            state = self._handed_on(layer, state)
        sizes = [x.bytes for x in given]

        def through(grads: dict[int, Storage]) -> list[Storage]:
            while ran:
                at = len(ran) - 1
                layer, held, own = ran[at]
                # Of a block all has run again up to here
                block_of = [other for other, _, _ in ran[at // block * block :]] if self.recompute == "mhc" else [layer]
                self._backward(layer, sum(other.saved - other.bytes for other in block_of), grads)
                ran.pop()
                del held, own
                grads.clear()
                grads.update({i: Storage(t, n) for i, n in enumerate(sizes)})
            return [grads[i] for i in range(len(edges))]

        t.order += 1
        made = Back((), edges, order=t.order, owner=None, through=through)
        for place, (value, x) in enumerate(zip(stack.outs, state, strict=True)):
            self.values[value] = Tensor(x.storage, x.shape, x.strides, x.width, made, place)

    def _backward(self, layer: Layer, again: int, grads: dict[int, Storage]) -> None:
        """The backward pass of a layer: bytes that run ``again`` before it, then what lives at most."""
        t, coming = self.t, sum(g.bytes for g in grads.values())
        if self.recompute in ("full", "selective"):
            t.use(layer.forward - layer.bytes)
        if self.recompute == "none":
            again = 0
        t.use(again + layer.backward - coming)
        t.whole = max(t.whole, t.live + t.leaves + again + layer.whole - coming)
        t.leaves += layer.leaves
        t.largest = max(t.largest, layer.largest)

    def _handed_on(self, layer: Layer, given: list[Tensor]) -> list[Tensor]:
        fresh: dict[int, Storage] = {}
        state = []
        for out in layer.outs:
            if out.operand is not None:
                storage = given[out.operand].storage
            else:
                storage = fresh.setdefault(out.storage, Storage(self.t, out.bytes))
                if out.kept:
                    self.counted[id(storage)] = storage
            state.append(Tensor(storage, out.shape, out.strides, out.width, Back()))
        return state

    def _layer(self, kind: Scope, given: list[Tensor]) -> Layer:
        """A layer of a kind, on operands that lie as the given ones do."""
        key = (kind, *((x.shape, x.strides, x.width, x.storage.bytes) for x in given))
        if key not in self._known:
            self._known[key] = self._first(kind, given)
        return self._known[key]

    def _first(self, kind: Scope, given: list[Tensor]) -> Layer:
        """Runs it forward and backward, and leaves no trace."""
        t = self.t
        before = t.most, t.whole, t.leaves, t.largest
        t.largest = 0
        operands = [Tensor(x.storage, x.shape, x.strides, x.width, Back()) for x in given]
        outer = {*(id(x.storage) for x in self.values.values() if x is not None), *map(id, self.time)}
        self.values.update(zip((v for v in kind.args if v.type.dtype != "none"), operands, strict=True))
        start = t.most = t.live
        if self.recompute in ("full", "selective"):
            self._ungraded(kind)
        first, t.most = t.most - start, start
        outs, losses, found = self._region(kind, operands)
        forward = t.most - start
        first = first or forward
        own: dict[str, int] = {}
        shared: list[Storage] = []
        ids = {id(storage) for storage, _ in found}
        inputs = {id(x.storage): i for i, x in enumerate(operands)}
        for storage, owner in found:
            if storage.given or id(storage) in inputs:
                continue
            if id(storage) in outer:
                shared.append(storage)
            else:
                component = owner.component if isinstance(owner, Node) else "residual"
                own[component] = own.get(component, 0) + storage.bytes
        made = tuple(
            Made(
                operand=inputs.get(id(x.storage)),
                storage=id(x.storage),
                bytes=x.storage.bytes,
                kept=id(x.storage) in ids,
                shape=x.shape,
                strides=x.strides,
                width=x.width,
            )
            for x in outs
        )
        roots = [(x.back, x.place, x.bytes) for x in (*outs, *losses) if x.back is not None]
        for value in [v for v in self.values if kind.holds(v.scope)]:
            del self.values[value]
        # A region holds the products that it kept until all of it is done
        pinned = [storage for storage, _ in found] if self.recompute == "selective" else []
        storage = None  # a layer without sub-layers keeps none
        del outs, losses, found
        saved = t.live - start
        t.most = t.whole = t.live
        t.leaves = 0
        left = backward(t, [(back, place, Storage(t, n)) for back, place, n in roots])
        del left, pinned
        layer = Layer(
            own=own,
            operands=tuple(id(x.storage) in ids for x in operands),
            shared=tuple(shared),
            outs=made,
            first=first,
            forward=forward,
            saved=saved,
            backward=t.most - start - saved,
            whole=t.whole - start - saved,
            leaves=t.leaves,
            largest=t.largest,
        )
        t.most, t.whole, t.leaves, t.largest = before
        return layer

    # --- recomputation ---------------------------------------------------------------------------
    def _ungraded(self, kind: Scope) -> None:
        """Runs a layer of which derivatives keep nothing."""
        t = self.t
        t.graded, t.products = False, [] if self.recompute == "selective" else None
        self._scope(kind)
        t.graded, t.products = True, None
        self._forget(kind)

    def _region(
        self, scope: Scope, operands: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[tuple[Storage, object]]]:
        """What a layer gives, its losses, and what is kept of it under the policy, with what it is kept for."""
        t, before = self.t, len(self.t.losses)
        t.products = [] if self.recompute == "selective" else None
        t.spared = self.recompute == "selective"
        self.gave = []
        self._scope(scope)
        gave, self.gave = self.gave, []
        t.spared = False
        outs = [x for x in map(self._get, scope.returns) if x is not None]
        losses = t.losses[before:]
        del t.losses[before:]
        found = kept([*outs, *losses])
        products, t.products = t.products or [], None
        if self.recompute == "none" or not found:  # what runs again for nothing holds nothing
            return outs, losses, found
        held: list[tuple[Storage, object]] = [(storage, None) for storage in self._of_the_step()]
        if self.recompute == "mhc":
            subs = _sub_layers(scope)
            held += [(storage, None) for storage in gave]
            held += [(x, who) for x, who in found if isinstance(who, Node) and any(s.holds(who.scope) for s in subs)]
        else:
            held += [*((x.storage, None) for x in operands), *products]
        return outs, losses, list({id(storage): (storage, owner) for storage, owner in held}.values())

    def _of_the_step(self) -> list[Storage]:
        """What a layer that runs again holds beside its operands: all of the step."""
        made = (self.values.get(v) for node in self.graph.steps.nodes() for v in node.outs)
        return [*(x.storage for x in made if x is not None), *self.time]

    def _module(self, scope: Scope) -> None:
        """A module of multi-token prediction, as a layer of its own."""
        t = self.t
        given = {v: x for v in scope.args if (x := self._get(v)) is not None}
        layer = self._first(scope, list(given.values()))
        self.values.update(given)
        t.use(layer.first)
        held = [x.storage for x, is_kept in zip(given.values(), layer.operands, strict=True) if is_kept]
        if self.recompute == "mhc":
            held = [x.storage for x in given.values()]
        edges = tuple((x.back, x.place, x.bytes, False) for x in given.values() if x.back is not None)

        def through(grads: dict[int, Storage]) -> list[Storage]:
            self._backward(layer, layer.saved - layer.bytes, grads)
            return [Storage(t, edge[2]) for edge in edges]

        t.order += 1
        storages = (*held, *layer.shared, Storage(t, layer.bytes))
        again = Back(storages, edges, order=t.order, owner=next(scope.nodes()), through=through)
        for place, (value, out) in enumerate(
            zip(scope.returns, self._handed_on(layer, list(given.values())), strict=True)
        ):
            self.values[value] = Tensor(out.storage, out.shape, out.strides, out.width, again, place)


def _sub_layers(layer: Scope) -> list[Scope]:
    """What stands on the residual path of a layer: memory, attention, feed-forward."""
    return [item for item in layer.items if isinstance(item, Scope) and item.slot]


def _block_size(stack: Stack) -> int:
    """Layers of a block of the policy ``mhc``: those that have about sqrt(n L / (n + 2)) of the L sub-layers, for n
    streams, at least one (arXiv:2512.24880, section 4.3.2). As packages do it.
    """
    shape = stack.args[0].shape
    streams = shape[-2] if len(shape) > 3 else 1
    layers, subs = len(stack.schedule), sum(len(_sub_layers(stack.kinds[i])) for i in stack.schedule)
    assert isinstance(streams, int)
    return max(1, int(sqrt(streams * subs / (streams + 2)) * layers / max(1, subs) + 0.5))
