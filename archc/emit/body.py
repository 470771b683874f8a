"""Prints the forward of one scope as statements."""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from archc.emit.flow import Flow
from archc.emit.layout import Line, source, statement
from archc.emit.remember import Slice
from archc.graph import Node, Scope, Stack, Value
from archc.ops.loss import Record

INLINE = 64
"""An unnamed value longer than this gets a line of its own."""


class Body:
    """Statements of a scope's items, with the drawer's own variable names.

    ``names`` are the values bound on entry, ``keep`` those that must stay bound to the end, ``reserved`` what no
    variable may be called (everything the file imports), ``callee`` what child modules are called by instead of their
    names, ``constants`` the attributes of the module that hold fields of a node's op, ``items`` a part of the scope's
    items to print instead of all.
    """

    def __init__(
        self,
        scope: Scope,
        flow: Flow,
        names: dict[Value, str],
        keep: Iterable[Value],
        reserved: frozenset[str],
        indent: int = 8,
        callee: ast.expr | None = None,
        constants: Mapping[Node, Mapping[str, str]] = MappingProxyType({}),
        items: Sequence[Node | Scope | Slice] | None = None,
    ) -> None:
        self.scope, self.flow, self.indent, self.callee = scope, flow, indent, callee
        self.constants = constants
        self.reserved = (
            reserved | frozenset(keyword.kwlist) | frozenset({"self", "step", "state"}) | frozenset(dir(builtins))
        )
        self.name = dict(names)
        self.bound = {n: v for v, n in names.items()}
        self.items: list[Node | Scope | Stack | Slice] = list(scope.items if items is None else items)
        self.last = dict.fromkeys(keep, len(self.items))
        self.count = dict.fromkeys(self.last, 2)
        for i, item in enumerate(self.items):
            for value in self._reads(item):
                self.last[value] = max(i, self.last.get(value, 0))
                self.count[value] = self.count.get(value, 0) + 1
        self.inline: dict[Value, Node | Scope] = {}
        self.lines: list[Line] = []
        self.reads_state = False

    def _reads(self, item: Node | Scope | Stack | Slice) -> Iterable[Value]:
        if isinstance(item, Node):
            return item.ins
        if isinstance(item, Slice):
            return item.takes
        return self.flow.takes(item) if isinstance(item, Scope) else item.args

    def run(self) -> list[Line]:
        """The statements."""
        for i, item in enumerate(self.items):
            if isinstance(item, Node):
                self._node(item, i)
            elif isinstance(item, Scope):
                self._call(item, i)
            elif isinstance(item, Slice):
                args = [*map(self.ref, item.takes), ast.Name(id="step", ctx=ast.Load())]
                called = ast.Call(func=_attribute("self", item.scope.name, "remember"), args=args, keywords=[])
                self.lines += statement("", called, "", self.indent)
            else:
                self._loop(item, i)
        return self.lines

    # --- expressions -----------------------------------------------------------------------------
    def ref(self, value: Value) -> ast.expr:
        """How a value is read here."""
        if value in self.name:
            return ast.Name(id=self.name[value], ctx=ast.Load())
        if value.step is not None:
            return _attribute("step", value.step)
        if value.state is not None:
            self.reads_state = True
            return _attribute("state", value.state)
        if value.param is not None:
            return _attribute("self", *self._below(value.scope), *value.param.name.split("."))
        made = self.inline[value]
        return self.expression(made) if isinstance(made, Node) else self.call(made)

    def call(self, scope: Scope) -> ast.expr:
        """The call of a child module, or of a function."""
        args = [self.ref(v) for v in self.flow.takes(scope)]
        if scope.function:
            return ast.Call(func=ast.Name(id=scope.function, ctx=ast.Load()), args=args, keywords=[])
        if self.flow.reads_step(scope):
            args.append(ast.Name(id="step", ctx=ast.Load()))
        return ast.Call(func=self.callee or _attribute("self", scope.name), args=args, keywords=[])

    def expression(self, node: Node) -> ast.expr:
        """What a node computes, as an expression."""
        if node.name is not None and node.name in self.scope.modules and node.scope is self.scope:
            return ast.Call(func=_module(node.name), args=self._data(node), keywords=[])
        for value in node.ins:
            if value.param is not None and value not in self.name and node.op.borrows:
                owner = value.param.name.rpartition(".")[0]
                module = value.scope.modules.get(owner)
                if module is not None and module.op.kind == node.op.borrows:
                    called = _attribute("self", *self._below(value.scope), owner)
                    return ast.Call(func=called, args=self._data(node), keywords=[])
        held = {name: _attribute("self", attribute) for name, attribute in self.constants.get(node, {}).items()}
        return (node.op.replaced(**held) if held else node.op).code(*map(self.ref, node.ins))

    def _data(self, node: Node) -> list[ast.expr]:
        """The operands of a node that are not parameters."""
        return [self.ref(v) for v in node.ins if v.param is None]

    def _below(self, scope: Scope) -> tuple[str, ...]:
        """The path from the printed scope to one inside it."""
        return scope.path()[len(self.scope.path()) :]

    # --- statements ------------------------------------------------------------------------------
    def _node(self, node: Node, i: int) -> None:
        if node.op.effect:
            self.lines += statement("", self.expression(node), "", self.indent)
            return
        live = [v for v in node.outs if self.count.get(v)]
        touches_state = any(v.state is not None for v in node.ins)
        if not live:
            if touches_state:
                self.lines += statement("", self.expression(node), "", self.indent)
            return
        if len(node.outs) == 1 and self.count[live[0]] == 1 and not self.scope.hints.get(live[0]) and not touches_state:
            self.inline[live[0]] = node
            self._extend(node, self.last[live[0]])
            if len(source(self.expression(node))) <= INLINE:
                return
            del self.inline[live[0]]
        value = self.expression(node)
        targets = [self._bind(v, i) if self.count.get(v) else "_" for v in node.outs]
        self._assign(targets, value, live)

    def _extend(self, item: Node | Scope, i: int) -> None:
        """What an inlined item reads keeps its name until the inlined text is printed."""
        for value in self._reads(item):
            self.last[value] = max(self.last.get(value, i), i)
            if value in self.inline:
                self._extend(self.inline[value], i)

    def _bind(self, value: Value, i: int, fallback: str = "y") -> str:
        base = name = self.scope.hints.get(value) or fallback
        n = 2
        while self._taken(name, value, i):
            name, n = f"{base}_{n}", n + 1
        self.bound[name], self.name[value] = value, name
        return name

    def _taken(self, name: str, value: Value, i: int) -> bool:
        if name in self.reserved:
            return True
        other = self.bound.get(name)
        return other is not None and other is not value and self.last.get(other, -1) > i

    def _assign(self, targets: list[str], value: ast.expr, shown: Iterable[Value]) -> None:
        shapes = ", ".join(dict.fromkeys(str(v.type) for v in shown))
        self.lines += statement(f"{', '.join(targets)} = ", value, shapes, self.indent)

    def _call(self, scope: Scope, i: int) -> None:
        outs = self.flow.gives(scope)
        if not outs:
            if any(node.op.effect for node in scope.nodes()):
                self.lines += statement("", self.call(scope), "", self.indent)
            return  # else only its parameters are read
        if (
            len(outs) == 1
            and not self.scope.hints.get(outs[0])
            and self.count[outs[0]] == 1
            and self.last[outs[0]] == i + 1
        ):
            self.inline[outs[0]] = scope  # read by the very next item: no order of effects changes
            self._extend(scope, i + 1)
            return
        value = self.call(scope)
        fallback = "y" if len(outs) > 1 or scope.function else scope.name
        targets = [self._bind(v, i, fallback) if self.count.get(v) else "_" for v in outs]
        self._assign(targets, value, outs)

    def _loop(self, stack: Stack, i: int) -> None:
        """Layers print as one loop over the state they pass on."""
        args = [source(self.ref(v)) for v in stack.args]
        for name, out in zip(args, stack.outs, strict=True):
            if not name.isidentifier():
                raise ValueError(f"the state of {stack.name} is not a variable: {name}")
            self.name[out], self.bound[name] = name, out
        state = ", ".join(args)
        pad = " " * self.indent
        loop = [f"for layer in step.regions(self.{stack.name}):", f"    {state} = layer({state}, step)"]
        if not records(stack.kinds[0]):
            loop.insert(1, f"    step.record({args[0]})")
        self.lines += [Line(pad + code) for code in loop]

    def returns(self, values: list[Value], after: Callable[[str], str] | None = None) -> list[Line]:
        """The lines with a `return` of ``values`` at the end; a last assignment of just that becomes the `return`.

        ``after`` gives a statement to run on the first of them before.
        """
        if not values:
            return self.lines
        result = ", ".join(source(self.ref(v)) for v in values)
        pad = " " * self.indent
        if after is not None:
            return [*self.lines, Line(pad + after(source(self.ref(values[0])))), Line(f"{pad}return {result}")]
        start = next((j for j in range(len(self.lines) - 1, -1, -1) if _opens(self.lines[j].code, self.indent)), None)
        if start is not None and self.lines[start].code.startswith(f"{pad}{result} = "):
            line = self.lines[start]
            self.lines[start] = Line(line.code.replace(f"{result} = ", "return ", 1), line.comment)
            return self.lines
        return [*self.lines, Line(f"{pad}return {result}")]


def records(layer: Scope) -> bool:
    """Whether a layer keeps its input itself for the caller who asks for hidden states."""
    return any(isinstance(item, Node) and isinstance(item.op, Record) for item in layer.items)


def _opens(code: str, indent: int) -> bool:
    return code.startswith(" " * indent) and code[indent : indent + 1] not in (" ", ")", "]", "#")


def _attribute(*path: str) -> ast.expr:
    node: ast.expr = ast.Name(id=path[0], ctx=ast.Load())
    for part in path[1:]:
        if part.isdigit():
            node = ast.Subscript(value=node, slice=ast.Constant(value=int(part)), ctx=ast.Load())
        else:
            node = ast.Attribute(value=node, attr=part, ctx=ast.Load())
    return node


def _module(name: str) -> ast.expr:
    """`self.name`, or `self.group["leaf"]` for a dotted name."""
    group, _, leaf = name.rpartition(".")
    if not group:
        return _attribute("self", name)
    return ast.Subscript(value=_attribute("self", group), slice=ast.Constant(value=leaf), ctx=ast.Load())
