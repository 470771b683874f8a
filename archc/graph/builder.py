"""The builder that drawers write their forward pass in."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from archc.graph.hints import Claim, claim
from archc.graph.value import Graph, Node, Scope, Stack, Value
from archc.ops import OPS, Op, ParamSpec, Role, ShapeError, Store, Type
from archc.schema import Drawer


class BuildError(Exception):
    """A drawer's forward broke a rule: where in the model, which op, and what."""

    def __init__(self, scope: Scope, what: str) -> None:
        self.scope, self.what = scope, what
        super().__init__(f"{'.'.join(scope.path()) or 'model'}: {what}")


if TYPE_CHECKING:
    from archc.graph.vocabulary import Vocabulary  # pyright: ignore[reportMissingModuleSource]
else:
    Vocabulary = object


class Builder(Vocabulary):
    """Writes a graph.

    Ops are methods by their registered name, ``g.linear("q_proj", x, out=4096)``: an optional name first (ops with
    parameters or a submodule need one), then operands, then the op's fields. ``archc ops`` shows all of them.
    """

    def __init__(self, name: str, std: Callable[[Role, int], float] | None = None, *, names: bool = True) -> None:
        """``std(role, fan_in)`` is the standard deviation with which a parameter starts.

        ``names``: whether values and scopes get the names and texts that they print with. Reading them off the
        drawers' sources takes as long as the building itself.
        """
        self._names = names
        self._std = std or (lambda role, fan_in: 0.02)
        self.graph = Graph(name=name, root=Scope("", "Model", None), steps=Scope("step", "Step", None))
        self.here = self.graph.root
        self._component = "head"
        self._sole = False
        self._steps: dict[tuple, Value] = {}
        self._claims: dict[Scope, tuple[Claim, tuple[Value, ...]]] = {}

    # --- ops -------------------------------------------------------------------------------------
    def __getattr__(self, kind: str) -> Callable[..., Any]:
        if kind.startswith("_") or kind not in OPS:
            raise AttributeError(f"no op {kind!r}; there are {', '.join(sorted(OPS))}")

        def build(*args: Any, **fields: Any) -> Any:
            named = bool(args) and (args[0] is None or isinstance(args[0], str))
            return self.emit(kind, args[0] if named else None, args[1:] if named else args, fields)

        return build

    def emit(self, kind: str, name: str | None, values: Sequence[Value | None], fields: dict[str, Any]) -> Any:
        """Adds a node and returns its result; operands that are None are left out.

        Several results are a tuple, those of an op with an effect are None.
        """
        op = OPS[kind](**fields)
        return self.add(op, name, *(v for v in values if v is not None))

    def add(self, op: Op, name: str | None, *values: Value) -> Any:
        """Adds a node that runs ``op``; see `emit`."""
        try:
            specs = op.params(name, *(v.type for v in values))
            values = (*values, *(self._param(spec) for spec in specs))
            types = op.infer(*(v.type for v in values))
        except ShapeError as error:
            raise BuildError(self.here, f"{name or op.kind}: {error}") from error
        node = Node(op, values, (), self.here, name, self._component)
        single = isinstance(types, Type)
        node.outs = tuple(Value(t, self.here, self, node) for t in ((types,) if isinstance(types, Type) else types))
        if self._names and name is not None and op.module(*(v.type for v in values)) is not None:
            self.here.modules[name] = node
        self.here.items.append(node)
        if op.effect:
            return None
        self._name(node.outs)
        return node.outs[0] if single else node.outs

    def _name(self, values: tuple[Value, ...]) -> None:
        """Gives values the names of the statement being run, and takes them back from what it built before."""
        if not self._names:
            return
        now = claim(sys._getframe(1))
        earlier = self._claims.get(self.here)
        if earlier is not None and now.continues(earlier[0]):
            for value in earlier[1]:
                self.here.hints.pop(value, None)
        self._claims[self.here] = (now, values)
        self._hint(self.here, now, values)

    @staticmethod
    def _hint(scope: Scope, now: Claim, values: Sequence[Value]) -> None:
        if len(now.names) == len(values):
            scope.hints.update((v, n) for v, n in zip(values, now.names, strict=True) if n and n != "_")

    # --- sources ---------------------------------------------------------------------------------
    def _param(self, spec: ParamSpec) -> Value:
        if spec.name in self.here.owners:
            raise BuildError(self.here, f"parameter {spec.name} is declared twice")
        if spec.init == "normal":
            spec = replace(spec, std=self._std(spec.role, spec.shape[-1]))
        value = Value(Type(spec.shape, spec.dtype), self.here, self, param=spec)
        self.here.params.append(value)
        self.here.owners[spec.name] = self._component
        return value

    def param(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        role: Role = "matrix",
        init: str | float = "normal",
        dtype: str = "act",
        buffer: bool = False,
        below: int = 0,
    ) -> Value:
        """A parameter of the current scope that no op declares; see `ParamSpec`."""
        spec = ParamSpec(name=name, shape=shape, role=role, init=init, dtype=dtype, buffer=buffer, below=below)  # type: ignore[arg-type]
        return self._param(spec)

    def parameter(self, path: str) -> Value:
        """A parameter that another scope owns, by its full name (``model.embed_tokens.weight``)."""
        for scope in self.graph.root.scopes():
            for value in scope.params:
                assert value.param is not None
                if ".".join((*scope.path(), value.param.name)) == path:
                    return value
        raise BuildError(self.here, f"no parameter {path}")

    def step(self, name: str | Sequence[str], kind: str, *values: Value, **fields: Any) -> Value:
        """A value computed once per forward and shared by every scope; equal settings share one.

        Of several names the first that is not taken counts.
        """
        key = (kind, values, tuple(sorted(fields.items())))
        if key not in self._steps:
            names = (name,) if isinstance(name, str) else tuple(name)
            numbered = (f"{names[-1]}_{n}" for n in count(2))
            taken = {v.step for v in self._steps.values()}
            here, self.here = self.here, self.graph.steps
            try:
                value = self.emit(kind, None, values, fields)
            except BuildError as error:
                raise BuildError(here, error.what) from error  # whoever asked for it is to blame
            finally:
                self.here = here
            value.step = next(n for n in chain(names, numbered) if n not in taken)
            self._steps[key] = value
        return self._steps[key]

    @property
    def time(self) -> Value:
        """Where the tokens of this call stand."""
        return self.step("time", "time_of")

    @property
    def tokens(self) -> Value:
        """The ids of the new tokens [B, S]."""
        return self.step("tokens", "token_ids")

    def state(self, name: str, store: Store) -> Value:
        """A slot of per-sequence state of the current scope.

        A layer's slots of state share their names: what is not an attention's carries the name of its module.
        """
        owner, parts = self.here, [name]
        while owner.parent is not None and not owner.slot:  # a nested drawer: its slots carry its name
            parts.insert(0, owner.name)
            owner = owner.parent
        if owner.drawer is not None and owner.drawer.slot != "attention":
            parts.insert(0, owner.name)
        full = "_".join(parts) if owner.slot else name
        self.here.states[full] = store
        self.here.owners[f"state.{full}"] = self._component
        return Value(Type((), "none"), self.here, self, state=full)

    # --- scopes ----------------------------------------------------------------------------------
    @contextmanager
    def component(self, name: str, *, sole: bool = False) -> Iterator[None]:
        """What the nodes and parameters built inside count as in the cost report; ``sole``: whatever they name."""
        outer = self._component, self._sole
        if not self._sole:
            self._component, self._sole = name, sole
        try:
            yield
        finally:
            self._component, self._sole = outer

    @contextmanager
    def ahead(self, name: str, tokens: int, carried: Value) -> Iterator[Scope]:
        """A scope whose step stands ``tokens`` ahead of the main model's (see `Graph.predictions`), to be filled."""
        outer, scope = self.here, Scope(name, "Model.ahead", self.here, ahead=tokens)
        scope.args = [carried]
        outer.items.append(scope)
        self.here = scope
        try:
            yield scope
        finally:
            self.here = outer

    def repeat(self, items: Sequence[Node | Scope | Stack], value: Value, instead: Value) -> dict[Value, Value]:
        """Runs what was built once more, with the same parameters, on ``value`` instead of what it was built on.

        Returns the new value for each old one. Raises `BuildError` for layers and state, which have one place.
        """
        known = {instead: value}
        nodes = [n for item in items for n in ((item,) if isinstance(item, Node) else item.nodes())]
        if any(isinstance(item, Stack) for item in items) or any(v.state for n in nodes for v in n.ins):
            raise BuildError(self.here, "layers and what keeps state cannot run a second time")
        for node in nodes:
            ins = tuple(known.get(v, v) for v in node.ins)
            again = Node(node.op, ins, (), self.here, node.name, self._component)
            again.outs = tuple(Value(v.type, self.here, self, again) for v in node.outs)
            self.here.items.append(again)
            known.update(zip(node.outs, again.outs, strict=True))
        return known

    def call(
        self,
        name: str,
        cls: str,
        build: Callable[..., Any],
        *values: Value,
        slot: bool = False,
        doc: str | None = None,
        place: tuple[int, int] = (1, 0),
        **given: Any,
    ) -> Any:
        """Runs ``build(g, *values, **given)`` in a scope (a module) of its own and returns what it returns.

        ``slot`` makes the module a constructor argument of its parent: parents that differ only there share one class.
        ``place`` is where it stands among its likes, see `Scope.place`.
        """
        outer, scope = self.here, Scope(name, cls, self.here, slot=slot, place=place)
        scope.doc = (_doc(build) if self._names else "") if doc is None else doc
        owner = getattr(build, "__self__", None)
        scope.drawer = owner if isinstance(owner, Drawer) else None
        self._open(scope, build, values)
        outer.items.append(scope)
        result = self._run(scope, build, values, given)
        self._name(tuple(scope.returns))
        for value in scope.returns:
            if value in scope.hints:
                outer.hints.setdefault(value, scope.hints[value])
        return result

    def stack(
        self,
        name: str,
        keys: Sequence[Hashable],
        build: Callable[[Any], Callable[..., Any]],
        *state: Value,
        cls: Callable[[Any], str] = lambda key: "Layer",
    ) -> tuple[Value, ...]:
        """Layers in a row, one per key: ``build(key)`` gives the forward of a layer, built once per distinct key.

        ``cls(key)`` names its class. ``state`` goes into the first layer; each layer returns the state of the next,
        of the same types.
        """
        outer = self.here
        kinds: dict[Hashable, int] = {}
        known: dict[int, int] = {}  # hashing a layer's drawers is slow, and most layers are the very same object
        for key in keys:
            if id(key) not in known:
                known[id(key)] = kinds.setdefault(key, len(kinds))
        schedule = tuple(known[id(key)] for key in keys)
        stack = Stack(name, outer, [], schedule, list(state), [])
        outer.items.append(stack)
        for key, i in kinds.items():
            scope = Scope(f"{name}.{schedule.index(i)}", cls(key), outer)
            args = tuple(Value(v.type, scope, self) for v in state)
            forward = build(key)
            scope.doc = _doc(forward) if self._names else ""
            self._open(scope, forward, args)
            for arg, value in zip(args, state, strict=True):
                if value in outer.hints:
                    scope.hints[arg] = outer.hints[value]
            result = self._run(scope, forward, args)
            got = result if isinstance(result, tuple) else (result,)
            if [v.shape for v in got] != [v.shape for v in state]:  # dtypes are the islands pass's business
                returned, needed = (", ".join(str(v.type) for v in values) for values in (got, state))
                raise BuildError(scope, f"layer kind {i} returns {returned}, the next needs {needed}")
            stack.kinds.append(scope)
        stack.outs = [Value(v.type, outer, self) for v in state]
        for out, value in zip(stack.outs, state, strict=True):
            if value in outer.hints:
                outer.hints[out] = outer.hints[value]
        return tuple(stack.outs)

    def _open(self, scope: Scope, build: Callable[..., Any], values: Sequence[Value]) -> None:
        scope.args = list(values)
        if not self._names:
            return
        scope.hints.update({v: self.here.hints[v] for v in values if v in self.here.hints})
        formal = list(inspect.signature(build).parameters.values())[1:]
        scope.hints.update(
            {v: p.name for v, p in zip(values, formal, strict=False) if p.kind is p.POSITIONAL_OR_KEYWORD}
        )

    def _run(
        self,
        scope: Scope,
        build: Callable[..., Any],
        values: Sequence[Value],
        given: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        outer, self.here = self.here, scope
        try:
            result = build(self, *values, **given)
        except BuildError:
            raise
        except Exception as error:
            if scope.drawer is None:
                raise
            raise BuildError(scope, _raised(error, scope.drawer)) from error
        finally:
            self.here = outer
        scope.returns = list(result) if isinstance(result, tuple) else [result]
        if not all(isinstance(value, Value) for value in scope.returns):
            raise BuildError(scope, f"its forward gives back {type(result).__name__}, not values of the graph")
        return result


def _raised(error: Exception, drawer: Drawer) -> str:
    """What a drawer's forward raised, and at which of its lines."""
    file = inspect.getsourcefile(type(drawer))
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f" (line {lines[-1]} of {file})" if lines else ""
    return f"its forward raises {type(error).__name__}: {error}{where}"


def _doc(build: Callable[..., Any]) -> str:
    """The docstring of what a forward was written by: its drawer, or a helper method with the drawer's source added."""
    owner = getattr(build, "__self__", None)
    if not isinstance(owner, Drawer):
        return _first_paragraph(build.__doc__)
    doc = owner.about()
    own = _first_paragraph(build.__doc__) if build.__name__ != "build" else ""
    source = re.search(r"\(([^()]*(?:arXiv|https?:)[^()]*)\)", doc)
    return f"{own.rstrip('.')} ({source[1]})." if own and source else own or doc


def _first_paragraph(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").split("\n\n")[0].strip()
