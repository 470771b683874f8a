"""Prints scopes as classes; scopes of equal text share one."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from itertools import chain, count
from typing import Any, NamedTuple

from archc.emit.body import Body, records
from archc.emit.flow import Flow
from archc.emit.layout import WIDTH, Line, aligned, docstring, fill, plain, source
from archc.emit.remember import Slice, Slices, confidence_of
from archc.graph import Graph, Node, Scope, Stack, Value
from archc.ops import ParamSpec
from archc.ops.base import TORCH_DTYPES, expr, literal
from archc.record import dataclass

_I = ast.Name(id="i", ctx=ast.Load())

FRAME = frozenset({"Backbone", "Layer", "MemoryLayer", "BypassedLayer", "BypassedMemoryLayer"})
"""Classes of the frame around the drawers, whose names no drawer may take."""

PARAMETERS = "It holds parameters, which the module around it hands to a function that computes this and more at once."
"""What is said of modules whose forward went into a function."""

DEFAULT_STD = 0.02
"""Standard deviation that the runtime's modules start with when none is printed."""


@dataclass(slots=True)
class Class:
    """One printed class: its name, its source, and what its constructor takes."""

    name: str
    text: str
    slots: tuple[str, ...]
    takes_layer: bool


class Constant(NamedTuple):
    """A value that a class takes as an argument: a field of the op of a node in it, or what a module inside takes."""

    of: Node | Scope | Stack
    name: str
    argument: str
    value: Any


@dataclass()
class Classes:
    """Every class of a model, children before parents, and which class prints a scope."""

    graph: Graph
    flow: Flow
    reserved: frozenset[str]
    classes: dict[str, Class] = field(default_factory=dict)
    of: dict[Scope, Class] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slices = Slices(self.graph, self.flow)
        for scope in self.graph.root.children():
            for module in scope.children() if scope.ahead else (scope,):
                self._visit(module)

    def _visit(self, scope: Scope) -> None:
        if scope in self.of:
            return
        for item in scope.items:
            if isinstance(item, Stack):  # the parts of all layers, then the layers
                for part in [part for kind in item.kinds for part in kind.children()]:
                    self._visit(part)
            for child in _modules(item):
                self._visit(child)
        slots = tuple(c.name for c in scope.children() if c.slot)
        turns = any(v.param is not None and v.param.init == "turn" for v in scope.params)
        inner = any(self.of[c].takes_layer for c in scope.children() if not c.slot)
        takes_layer = bool(scope.states) or turns or inner
        constants = _constants(scope)
        body = self.init(scope, slots)
        runs = bool(scope.items or scope.returns)  # else a function computes all of it
        if runs:
            body += ["", *self._forward(scope)]
        if (part := self.slices.of(scope)) is not None:
            body += ["", *self._remember(part)]
        for name in self._names(scope):
            doc = scope.doc or f"{name}."
            head = [
                f"class {name}(nn.Module):",
                *docstring(doc if runs else f"{doc}\n\n{PARAMETERS}", 4),
                "",
                *_keeps(scope),
                *_sub_layers(scope, slots),
            ]
            arguments = ["self", *(["layer: int"] if takes_layer else []), *(f"{s}: nn.Module" for s in slots)]
            arguments += [f"{c.argument}: {_annotation(c.value)}" for c in constants]
            text = "\n".join([*head, *_signature("__init__", arguments, "None"), "        super().__init__()", *body])
            known = self.classes.get(name)
            if known is None or known.text == text:
                self.of[scope] = self.classes.setdefault(name, Class(name, text, slots, takes_layer))
                return

    def _names(self, scope: Scope) -> Iterator[str]:
        """Candidates for a class name: the drawer's, with its parent's before it, then numbered."""
        taken = scope.cls in self.reserved or (scope.slot and scope.cls in FRAME)
        base = f"{scope.cls}Module" if taken else scope.cls
        yield base
        if scope.parent is not None and scope.parent.cls not in {*FRAME, "Model"}:
            yield scope.parent.cls.removesuffix("Attention") + base
        n = 2
        while True:
            yield f"{base}{n}"
            n += 1

    # --- the constructor -------------------------------------------------------------------------
    def construct(self, scope: Scope, layer: ast.expr, given: Mapping[str, ast.expr] | None = None) -> ast.expr:
        """The call that makes a module of a scope, its slots included; constants are ``given``, or their values."""
        cls = self.of[scope]
        if scope.place != (1, 0):
            layer = _placed(layer, *scope.place)
        args = [layer] if cls.takes_layer else []
        args += [self.construct(c, layer) for c in scope.children() if c.name in cls.slots]
        constants = {c.argument: literal(c.value) for c in _constants(scope)} if given is None else given
        keywords = [ast.keyword(arg=name, value=value) for name, value in constants.items()]
        return ast.Call(func=ast.Name(id=cls.name, ctx=ast.Load()), args=args, keywords=keywords)

    def init(self, scope: Scope, slots: tuple[str, ...]) -> list[str]:
        """The statements of a constructor: submodules, parameters and layers, in the order of the forward."""
        constants = _constants(scope)
        lines = ["        self.layer = layer"] if scope.states else []
        lines += [
            f"        self.{c.argument} = {c.argument}"
            for c in constants
            if isinstance(c.of, Node) and not _is_module(scope, c.of)
        ]
        groups: dict[str, list[tuple[str, ast.expr]]] = {}
        loose: dict[str, list[ParamSpec]] = {}
        for value in scope.params:
            assert value.param is not None
            owner = value.param.name.rpartition(".")[0]
            if owner not in scope.modules:
                loose.setdefault(owner, []).append(value.param)
        for item in scope.unfused or scope.items:
            if isinstance(item, Node):
                name = item.name
                if name is None or not _is_module(scope, item):
                    own = [v.param.name for v in item.ins if v.param is not None and v.scope is scope]
                    read = dict.fromkeys(name.rpartition(".")[0] for name in own)
                    lines += [
                        line for owner in read if owner and owner in loose for line in _held(owner, loose.pop(owner))
                    ]
                    continue
                specs = [v.param for v in item.ins if v.param is not None and v.param.name.startswith(f"{name}.")]
                given = _arguments(item, constants)
                made = (item.op.replaced(**given) if given else item.op).module(*(v.type for v in item.ins))
                assert made is not None
                group, _, leaf = name.rpartition(".")
                if group:
                    groups.setdefault(group, []).append((leaf, _with_std(made, specs)))
                else:
                    lines += plain(f"self.{name} = ", _with_std(made, specs), 8)
            elif isinstance(item, Stack):
                lines += self._layers(item)
            elif item.ahead:
                continue
            elif item.name in slots:
                lines.append(f"        self.{item.name} = {item.name}")
            else:
                made = self.construct(item, ast.Name(id="layer", ctx=ast.Load()), _arguments(item, constants))
                lines += plain(f"self.{item.name} = ", made, 8)
        for group, members in groups.items():
            pairs = ast.Dict(keys=[ast.Constant(value=k) for k, _ in members], values=[v for _, v in members])
            lines += plain(f"self.{group} = ", expr("nn.ModuleDict(d)", d=pairs), 8)
        for owner, specs in loose.items():
            lines += [line for spec in specs for line in _raw(spec)] if not owner else _held(owner, specs)
        return lines

    def ahead(self) -> list[str]:
        """The statement that makes the modules that predict further tokens, if they are asked for."""
        made = [
            self.construct(module, ast.Constant(value=depth))
            for depth, scope in enumerate(self.graph.predictions())
            for module in scope.children()
        ]
        return plain("self.mtp = ", expr("nn.ModuleList([*made] if mtp else [])", made=made), 8) if made else []

    def _layers(self, stack: Stack) -> list[str]:
        """The layer list; runs of equal layers, or of equal groups of layers, print as one comprehension."""
        made = [
            text
            for start, period, times in runs(stack.schedule)
            for text in self._run([stack.kinds[k] for k in stack.schedule[start : start + period]], start, times)
        ]
        if len(made) == 1 and made[0].startswith("*("):
            text = f"self.{stack.name} = nn.ModuleList({made[0].removeprefix('*(').removesuffix(')')})"
            return textwrap.indent(text, " " * 8).split("\n")
        return [
            f"        self.{stack.name} = nn.ModuleList(",
            "            [",
            *(line for text in made for line in textwrap.indent(f"{text},", " " * 16).split("\n")),
            "            ]",
            "        )",
        ]

    def _run(self, group: list[Scope], start: int, times: int) -> list[str]:
        """Constructors of a group of layers that stands ``times`` times in a row, from layer ``start`` on."""
        if times == 1:
            made = [self.construct(kind, ast.Constant(value=start + i)) for i, kind in enumerate(group)]
            return ["\n".join(line[16:] for line in plain("", m, 16)) for m in made]
        made = [self.construct(kind, expr("i + n", i=_I, n=n) if n else _I) for n, kind in enumerate(group)]
        index = "i" if any(isinstance(n, ast.Name) and n.id == "i" for m in made for n in ast.walk(m)) else "_"
        stop = start + times * len(group)
        if len(group) == 1:
            span = f"range({stop})" if start == 0 else f"range({start}, {stop})"
            return [f"*({source(made[0])} for {index} in {span})"]
        layers = [f"    for layer in ({', '.join(map(source, made))})"]
        if len(layers[0]) > WIDTH - 16:
            layers = ["    for layer in (", *(f"        {source(m)}," for m in made), "    )"]
        return [
            "\n".join(["*(", "    layer", f"    for {index} in range({start}, {stop}, {len(group)})", *layers, ")"])
        ]

    # --- the forward -----------------------------------------------------------------------------
    def _forward(self, scope: Scope) -> list[str]:
        takes, gives = self.flow.takes(scope), self.flow.gives(scope)
        names = self._named(scope, takes)
        body = Body(scope, self.flow, names, gives, self.reserved, constants=_attributes(scope))
        body.run()
        stack = next((i for i in scope.items if isinstance(i, Stack)), None)
        lines = body.returns(gives, (lambda result: f"step.record({result})") if stack is not None else None)
        if body.reads_state:
            lines = [STATE, *lines]
        arguments = [
            "self",
            *(f"{names[v]}: Tensor" for v in takes),
            *(["step: Step"] if self.flow.reads_step(scope) else []),
        ]
        skipped = self._skipped(scope, names) if scope in self.slices.skippable else []
        return [*_signature("forward", arguments, returned(gives)), *skipped, *aligned(lines)]

    def _named(self, scope: Scope, takes: Sequence[Value]) -> dict[Value, str]:
        """The names of what a method takes."""
        names: dict[Value, str] = {}
        for value in takes:
            base = name = scope.hints.get(value) or (value.param.name.rpartition(".")[2] if value.param else "x")
            n = 2
            while name in names.values() or name in self.reserved:
                name, n = f"{base}_{n}", n + 1
            names[value] = name
        return names

    def _skipped(self, layer: Scope, names: dict[Value, str]) -> list[str]:
        """How a layer begins that tokens may skip: where all do, it only remembers them."""
        part = self.slices.of(layer)
        lines = [f"        if step.skips({names[confidence_of(layer)]}):"]
        if part is not None:
            lines.append(f"            self.remember({', '.join([*(names[v] for v in part.takes), 'step'])})")
        return [*lines, f"            return {', '.join(names[v] for v in layer.args)}"]

    def _remember(self, part: Slice) -> list[str]:
        """The method that runs a slice."""
        names = self._named(part.scope, part.takes)
        constants = _attributes(part.scope)
        body = Body(part.scope, self.flow, names, (), self.reserved, constants=constants, items=part.items)
        lines = body.run()
        if body.reads_state:
            lines = [STATE, *lines]
        arguments = ["self", *(f"{names[v]}: Tensor" for v in part.takes), "step: Step"]
        doc = docstring("Writes to the cache what later tokens read of tokens that skip this.", 8)
        return [*_signature("remember", arguments, "None"), *doc, *aligned(lines)]


STATE = Line("        state = step.state(self.layer)")
"""How a method begins that reads or writes state."""


def _signature(method: str, arguments: list[str], result: str) -> list[str]:
    """The head of a method, in one line if that fits."""
    listed = ", ".join(arguments)
    whole = f"    def {method}({listed}) -> {result}:"
    if len(whole) <= WIDTH:
        return [whole]
    return [f"    def {method}(", *fill(arguments, 8), f"    ) -> {result}:"]


def _constants(scope: Scope) -> list[Constant]:
    """What the class of a slot, or of a module inside one, takes because other layers have other values of it."""
    inside: Scope | None = scope
    while inside is not None and not inside.slot:
        inside = inside.parent
    taken = {"layer", *scope.modules, *(c.name for c in scope.children())}
    taken |= {value.param.name for value in scope.params if value.param is not None}
    found: list[Constant] = []
    for item in scope.items if inside is not None else ():
        if isinstance(item, Node):
            given = [(name, getattr(item.op, name)) for name in item.op.varies]
        else:
            given = (
                [(c.argument, c.value) for c in _constants(item)] if isinstance(item, Scope) and not item.slot else []
            )
        for name, value in given:
            argument = next(a for a in chain((name,), (f"{name}_{n}" for n in count(2))) if a not in taken)
            taken.add(argument)
            found.append(Constant(item, name, argument, value))
    return found


def _attributes(scope: Scope) -> dict[Node, dict[str, str]]:
    """Where a module keeps what its class takes: for each node the attributes that hold fields of its op."""
    found: dict[Node, dict[str, str]] = {}
    for c in _constants(scope):
        if isinstance(c.of, Node):
            found.setdefault(c.of, {})[c.name] = c.argument
    return found


def _arguments(item: Node | Scope, constants: Sequence[Constant]) -> dict[str, ast.expr]:
    """Names of the arguments that hold what an item of a scope takes."""
    return {c.name: ast.Name(id=c.argument, ctx=ast.Load()) for c in constants if c.of is item}


def _annotation(value: Any) -> str:
    """The type of a constant: a number, or several."""
    return f"tuple[{type(value[0]).__name__}, ...]" if isinstance(value, tuple) else type(value).__name__


def _modules(item: Node | Scope | Stack) -> Sequence[Scope]:
    """The modules that an item is: itself, or kinds of layers; none for what is a node or a function."""
    if isinstance(item, Scope):
        return () if item.function else (item,)
    return item.kinds if isinstance(item, Stack) else ()


def _is_module(scope: Scope, node: Node) -> bool:
    return node.name is not None and scope.modules.get(node.name) is node


def returned(values: Sequence[Value]) -> str:
    """The annotation of what a forward gives back."""
    if len(values) > 1:
        return f"tuple[{', '.join(['Tensor'] * len(values))}]"
    return "Tensor" if values else "None"


def runs(schedule: Sequence[int]) -> list[tuple[int, int, int]]:
    """A schedule as groups in a row: (first layer, layers in the group, how often it stands there).

    Of all groups that start at a layer and stand there three times or more, the one that covers most counts.
    """
    found: list[tuple[int, int, int]] = []
    start = 0
    while start < len(schedule):
        length = repeats = 1
        for period in range(1, (len(schedule) - start) // 3 + 1):
            group, times = schedule[start : start + period], 1
            while schedule[start + times * period : start + (times + 1) * period] == group:
                times += 1
            if times > 2 and period * times > length * repeats:
                length, repeats = period, times
        found.append((start, length, repeats))
        start += length * repeats
    return found


def _keeps(scope: Scope) -> list[str]:
    if not scope.states:
        return []
    stores = ast.Dict(
        keys=[ast.Constant(value=k) for k in scope.states], values=[s.code() for s in scope.states.values()]
    )
    lines = plain("keeps = ", stores, 4)
    if len(lines[0]) > 110:
        lines = ["    keeps = {", *(f'        "{k}": {source(s.code())},' for k, s in scope.states.items()), "    }"]
    return [*lines, ""]


def _sub_layers(scope: Scope, slots: Sequence[str]) -> list[str]:
    """What stands on the residual path of a layer, for what runs the rest of it again, and whether it records its
    input itself.
    """
    lines = []
    if slots:
        lines.append(f"    sub_layers = ({', '.join(map(repr, slots))}{',' * (len(slots) == 1)})".replace("'", '"'))
    if records(scope):
        lines.append("    records = True  # its input, once the sub-layer before is left")
    return [*lines, ""] if lines else []


def _placed(layer: ast.expr, times: int, more: int) -> ast.expr:
    """The layer of a module, from that of its parent."""
    if isinstance(layer, ast.Constant):
        assert isinstance(layer.value, int)
        return ast.Constant(value=times * layer.value + more)
    return expr("n * layer + m", layer=layer, n=times, m=more) if more else expr("n * layer", layer=layer, n=times)


def _with_std(made: ast.expr, specs: list[ParamSpec]) -> ast.expr:
    """The constructor with the standard deviation of its weight, where it is not the default."""
    std = next((s.std for s in specs if s.std is not None and s.std != DEFAULT_STD), None)
    if std is None or not isinstance(made, ast.Call):
        return made
    return ast.Call(
        func=made.func, args=made.args, keywords=[*made.keywords, ast.keyword(arg="std", value=ast.Constant(value=std))]
    )


def _raw(spec: ParamSpec) -> list[str]:
    """The declaration of a parameter or buffer of the module itself."""
    if spec.buffer:
        return [f"        self.{spec.name} = nn.Buffer({_value(spec)})"]
    return [f"        self.{spec.name} = {_value(spec)}"]


def _held(owner: str, specs: list[ParamSpec]) -> list[str]:
    """The declaration of parameters under a dotted name that an equation uses directly."""
    (first, *others) = specs
    if not others and len(first.shape) == 2 and first.init == "normal":  # the weight of a linear map in all but its use
        linear = expr("Linear(i, o)", i=first.shape[1], o=first.shape[0])
        return [f"        self.{owner} = {source(_with_std(linear, specs))}"]
    values = ", ".join(f'"{s.name.rpartition(".")[2]}": {_value(s)}' for s in specs)
    return [f"        self.{owner} = nn.ParameterDict({{{values}}})"]


def _value(spec: ParamSpec) -> str:
    """The expression of a new parameter or buffer."""
    sizes = ", ".join(map(str, spec.shape))
    std = "" if spec.std in (None, DEFAULT_STD) else f", std={spec.std}"
    dtype = "" if spec.dtype == "act" else f", dtype={_dtype(spec)}"
    if spec.init == "choices":
        return f"choices({sizes}, below={spec.below})"
    if spec.init == "wrapped":
        return f"torch.arange({sizes}) % {spec.below}"
    if spec.buffer:
        return f"torch.{'ones' if spec.init == 'ones' else 'zeros'}({sizes}{dtype})"
    if spec.init == "normal":
        return f"normal({sizes}{std}{dtype})"
    if spec.init == "eye":
        return f"nn.Parameter(torch.eye({sizes}{dtype}))"
    if spec.init == "turn":
        return f"nn.Parameter(torch.eye({sizes}{dtype})[layer % {sizes}].clone())"
    if isinstance(spec.init, float):
        return f"nn.Parameter(torch.full({spec.shape}, {spec.init}{dtype}))"
    return f"nn.Parameter(torch.{spec.init}({sizes}{dtype}))"


def _dtype(spec: ParamSpec) -> str:
    """What a parameter is stored in: islands widen with a model that is wider than they ask for."""
    return "at_least_float32()" if spec.dtype == "fp32" else TORCH_DTYPES[spec.dtype]
