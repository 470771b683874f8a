"""Values, nodes and scopes: what a graph is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING

from archc.ops import Op, ParamSpec, Shape, Store, Type
from archc.record import dataclass

if TYPE_CHECKING:
    from archc.graph.builder import Builder
    from archc.schema import Drawer


@dataclass(eq=False, repr=False, slots=True)
class Value:
    """Something a node reads: another node's result, a parameter, a field of the step, a slot of state, an argument."""

    type: Type
    scope: Scope
    g: Builder
    node: Node | None = None
    param: ParamSpec | None = None
    step: str | None = None
    state: str | None = None

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return self.type.shape

    def __repr__(self) -> str:
        what = (
            self.param.name
            if self.param
            else self.step or self.state or (self.node.op.kind if self.node else "argument")
        )
        return f"<{what} {self.type}>"

    def _binary(self, sign: str, other: Value | float, *, flip: bool = False) -> Value:
        if isinstance(other, Value):
            return self.g.emit("binary", None, (other, self) if flip else (self, other), {"sign": sign})
        return self.g.emit("binary", None, (self,), {"sign": sign, "number": other})

    def __add__(self, other: Value | float) -> Value:
        return self._binary("+", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._binary("-", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._binary("*", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._binary("/", other)


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """One run of an op."""

    op: Op
    ins: tuple[Value, ...]
    outs: tuple[Value, ...]
    scope: Scope
    name: str | None
    """The submodule it prints as, where its op has one."""
    component: str
    """What its cost counts as (a key of `by_component`)."""

    def __repr__(self) -> str:
        return f"<{self.op.kind} {', '.join(map(repr, self.ins))} -> {', '.join(str(v.type) for v in self.outs)}>"


@dataclass(eq=False, repr=False, slots=True)
class Scope:
    """One module: its parameters, state and the nodes of its forward."""

    name: str
    cls: str
    parent: Scope | None
    doc: str = ""
    slot: bool = False
    """A child that its parent takes as a constructor argument, so that equal parents share one class."""
    drawer: Drawer | None = None
    """The drawer whose method wrote its forward, where one did."""
    place: tuple[int, int] = (1, 0)
    """(a, b): in layer a * i + b where its parent stands in layer i; what parameters start with may tell."""
    ahead: int = 0
    """How many tokens ahead of the main model its step stands (MTP): such a scope runs only where there are labels."""
    function: str = ""
    """The function that it prints as, where it is no module but ops that run as one: its ``args`` are all it reads."""
    items: list[Node | Scope | Stack] = field(default_factory=list)
    unfused: list[Node | Scope | Stack] = field(default_factory=list)
    """Its items before some went into functions, if any did: the order in which it makes its modules and parameters."""
    args: list[Value] = field(default_factory=list)
    returns: list[Value] = field(default_factory=list)
    params: list[Value] = field(default_factory=list)
    owners: dict[str, Component] = field(default_factory=dict)
    """Component of each parameter, by name."""
    modules: dict[str, Node] = field(default_factory=dict)
    """Nodes that print as submodules, by name."""
    states: dict[str, Store] = field(default_factory=dict)
    hints: dict[Value, str] = field(default_factory=dict)
    """Variable names that the drawer gave to values."""

    def path(self) -> tuple[str, ...]:
        """Names of the scopes from the root to this one."""
        return () if self.parent is None else (*self.parent.path(), self.name)

    def nodes(self) -> Iterator[Node]:
        """Every node inside, in order of execution; a stack's kinds once each."""
        for item in self.items:
            if isinstance(item, Node):
                yield item
            else:
                yield from item.nodes()

    def scopes(self) -> Iterator[Scope]:
        """Itself and every scope inside."""
        yield self
        for item in self.items:
            if isinstance(item, Scope):
                yield from item.scopes()
            elif isinstance(item, Stack):
                for kind in item.kinds:
                    yield from kind.scopes()

    def children(self) -> Iterator[Scope]:
        """Modules directly inside, stacks left out."""
        return (item for item in self.items if isinstance(item, Scope) and not item.function)

    def functions(self) -> Iterator[Scope]:
        """Functions directly inside: ops that run as one."""
        return (item for item in self.items if isinstance(item, Scope) and item.function)

    def holds(self, scope: Scope | None) -> bool:
        """Whether ``scope`` is this one or inside it."""
        while scope is not None and scope is not self:
            scope = scope.parent
        return scope is self

    def __repr__(self) -> str:
        return f"<scope {'.'.join(self.path()) or 'root'}>"


Component = str


@dataclass(eq=False, repr=False, slots=True)
class Stack:
    """Layers run one after the other, each distinct one built once.

    ``kinds[schedule[i]]`` is layer i; a kind's ``args`` stand for the state that the layer before returned.
    """

    name: str
    scope: Scope
    kinds: list[Scope]
    schedule: tuple[int, ...]
    args: list[Value]
    outs: list[Value]

    def nodes(self) -> Iterator[Node]:
        """Nodes of every kind, once each."""
        for kind in self.kinds:
            yield from kind.nodes()

    def indices(self, kind: int) -> tuple[int, ...]:
        """The layers that are of a kind."""
        return tuple(i for i, k in enumerate(self.schedule) if k == kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of the whole model, its name spelled out."""

    name: str
    value: Value
    component: str
    layer: int = 0
    """The layer of the module that owns it, see `Scope.place`."""

    @property
    def spec(self) -> ParamSpec:
        """What was declared of it."""
        assert self.value.param is not None
        return self.value.param


@dataclass(eq=False, repr=False, slots=True)
class Graph:
    """A whole model: the root scope, and what is computed once per forward."""

    name: str
    root: Scope
    steps: Scope

    def scopes(self, *, labels: bool = True) -> Iterator[tuple[Scope, int]]:
        """Every distinct scope with the number of times a forward enters it, with labels or without."""
        yield from _scopes(self.root, 1, labels)

    def walk(self, *, labels: bool = True) -> Iterator[tuple[Node, int]]:
        """Every distinct node with the number of times a forward runs it, with labels or without."""
        yield from ((node, 1) for node in self.steps.nodes())
        for scope, times in self.scopes(labels=labels):
            yield from ((item, times) for item in scope.items if isinstance(item, Node))

    def predictions(self) -> list[Scope]:
        """The scopes that predict further tokens (MTP), in order of depth.

        Each takes what the one before hands on (the first: the main model), holds one module, and returns what that
        gives the head, what it hands on, and logits. What it reads of the step is that of its own tokens.
        """
        return [scope for scope in self.root.children() if scope.ahead]

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter and buffer by its full name, in the order of the modules."""
        yield from _parameters(self.root, "", 0)

    def states(self) -> Iterator[tuple[int, str, Store]]:
        """(layer, name, store) of every slot of state."""
        for stack in (i for s in self.root.scopes() for i in s.items if isinstance(i, Stack)):
            for layer, kind in enumerate(stack.schedule):
                for scope in stack.kinds[kind].scopes():
                    yield from ((layer, name, store) for name, store in scope.states.items())


def _scopes(scope: Scope, times: int, labels: bool) -> Iterator[tuple[Scope, int]]:
    if scope.ahead and not labels:
        return
    yield scope, times
    for item in scope.items:
        if isinstance(item, Scope):
            yield from _scopes(item, times, labels)
        elif isinstance(item, Stack):
            for k, kind in enumerate(item.kinds):
                yield from _scopes(kind, times * item.schedule.count(k), labels)


def _parameters(scope: Scope, prefix: str, layer: int) -> Iterator[Parameter]:
    for value in scope.params:
        assert value.param is not None
        component = scope.owners[value.param.name]
        yield Parameter(name=prefix + value.param.name, value=value, component=component, layer=layer)
    for item in scope.items:
        if isinstance(item, Scope):
            times, more = item.place
            at = item.ahead - 1 if item.ahead else times * layer + more
            yield from _parameters(item, f"{prefix}{item.name}.", at)
        elif isinstance(item, Stack):
            for i, kind in enumerate(item.schedule):
                yield from _parameters(item.kinds[kind], f"{prefix}{item.name}.{i}.", i)
