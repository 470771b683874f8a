"""Chains of the graph's ops as row programs: which dims are tokens, which the row, and what goes through memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from archc.graph import Node, Value
from archc.ops import Shape
from archc.rows import pointwise as pw
from archc.rows import rules as r
from archc.rows.kernel import Kernel
from archc.rows.lower.lowering import BLOCKS, REASONS, RULES, Dims, Leaf, Lowering, Term, Unfit
from archc.rows.value import Row

NARROWEST = 16
"""Channels from which on a last dim is rather a row than numbers that are written out."""


class Lowered(NamedTuple):
    """The kernel of a chain, and the sizes whose product is the number of its tokens (``B, S``, heads after them)."""

    kernel: Kernel
    tokens: Shape


def lower(nodes: Sequence[Node], takes: Mapping[Value, str], gives: Mapping[str, Value], name: str) -> Lowered:
    """The row program of ``nodes``, views among them, in order: it takes values from memory and gives others, by name.

    What is given in the activation dtype and read by another of the nodes is read as it is stored. Takes that no
    number depends on are left out. Raises `Unfit` with the reason where the nodes are no row program.
    """
    if clash := set(takes.values()) & gives.keys():
        raise ValueError(f"{', '.join(sorted(clash))} is taken and given under one name")
    values = dict.fromkeys(v for node in nodes for v in (*node.ins, *node.outs))
    alone = _alone(nodes)
    mine = [v for v in values if v not in alone and v.param is None and v.type.dtype in ("act", "fp32")]
    tokens = _tokens(v for v in mine if v.step is None)
    reason, furthest = Unfit("there is nothing to compute"), -1
    for heads, width, blocks in (*_blocks(nodes), *_choices(mine, tokens)):
        attempt = _Attempt(nodes, takes, gives, Lowering(tokens, heads, width, blocks=blocks))
        try:
            return Lowered(attempt.kernel(name), (*tokens, *heads))
        except Unfit as why:
            if attempt.done > furthest:
                reason, furthest = why, attempt.done
    raise reason


def _alone(nodes: Sequence[Node]) -> set[Value]:
    """What the nodes make of parameters alone."""
    found: set[Value] = set()
    for node in nodes:
        if node.ins and all(v.param is not None or v in found for v in node.ins):
            found.update(node.outs)
    return found


def _tokens(values: Iterable[Value]) -> Shape:
    """The dims that count tokens: those that depend on the workload, the same of all values."""
    found = dict.fromkeys(_leading(v) for v in values)
    if len(found) > 1:
        first, second, *_ = (f"for each of [{', '.join(map(str, dims))}]" if dims else "for none" for dims in found)
        raise Unfit(f"one value is {first}, another {second}")
    return next(iter(found), ())


def _leading(value: Value) -> Shape:
    count = next((i for i, n in enumerate(value.shape) if isinstance(n, int)), len(value.shape))
    return value.shape[:count]


def _blocks(nodes: Sequence[Node]) -> Iterator[tuple[Dims, int, bool]]:
    """Widths of rows that ops ask for: each a token of its own, or several to a token."""
    for node in nodes:
        if type(node.op) in BLOCKS:
            channels = node.ins[0].type.last
            width = BLOCKS[type(node.op)](node.op, node.ins[0].type)
            if channels > width:
                yield (channels // width,), width, True
            yield (), width, False


def _choices(values: Sequence[Value], tokens: Shape) -> Iterator[tuple[Dims, int, bool]]:
    """Dims of heads and widths of rows to try, in order: as many tokens as can be, and rows as wide as can be."""
    dims = [tuple(n for n in v.shape[len(tokens) :] if isinstance(n, int)) for v in values if v.step is None]
    heads = {d[:i] for d in dims for i in range(1, len(d))}
    for some in [*sorted((h for h in heads if math.prod(h) > 1), key=math.prod, reverse=True), ()]:
        last = {d[-1] for d in dims if d and d[: len(some)] == some and len(d) > len(some)}
        widths = {*last, math.gcd(*last)} if last else set()
        rows = sorted((w for w in widths if w >= NARROWEST), reverse=True)
        narrow = sorted((w for w in widths if 1 < w < NARROWEST), reverse=True)
        yield from ((some, w, False) for w in (*rows, 1, *narrow))


class _Attempt:
    """A chain lowered with one choice of tokens and rows."""

    def __init__(
        self, nodes: Sequence[Node], takes: Mapping[Value, str], gives: Mapping[str, Value], low: Lowering
    ) -> None:
        self.nodes, self.takes, self.gives, self.low = nodes, takes, gives, low
        self.terms: dict[Value, Term] = {}
        self.done = 0
        """How many nodes could be lowered."""
        self.hinted: list[tuple[Node, list[int]]] = []
        """What the rule of each node gave hints for."""

    def kernel(self, name: str) -> Kernel:
        """The kernel of the chain."""
        rounded, hints = self._rounded(), self.low.program.hints
        for node in self.nodes:
            known = set(hints)
            made = self._lowered(node)
            self.hinted.append((node, [id for id in hints if id not in known]))
            for value, term in zip(node.outs, made, strict=True):
                rounds = value in rounded and not isinstance(term.row.rule, r.Input | r.Param)
                self.terms[value] = (
                    term._replace(row=self.low.make(r.Round(format="act"), term.row)) if rounds else term
                )
            self.done += 1
        gives = {name: self._given(value) for name, value in self.gives.items()}
        self._name(gives)
        takes = {n: self.low.takes[n] for n in self.takes.values() if n in self.low.takes}
        stored: dict[str, r.Format] = {name: Lowering.format(value) for name, value in self.gives.items()}
        return Kernel(name, self.low.width, takes, gives, stored)

    def _rounded(self) -> set[Value]:
        """Values that are stored in the activation dtype and read inside: what is stored of a view is its source."""
        inside = {v: node for node in self.nodes for v in node.outs}
        read = {v for node in self.nodes if not node.op.view for v in _read(node)}
        found: set[Value] = set()
        for value in self.gives.values():
            here = value
            seen = {here}
            while here in inside and inside[here].op.view:
                here = inside[here].ins[0]
                seen.add(here)
            views = {v for v in inside if _source(v, inside) is here}
            if here.type.dtype == "act" and (views | seen) & read:
                found.add(here)
        return found

    def _lowered(self, node: Node) -> Sequence[Term]:
        entry = RULES.get(type(node.op))
        if entry is None:
            raise Unfit(REASONS.get(type(node.op), f"{node.op.kind} is no op of rows"))
        ins = [Leaf(self.takes.get(v, ""), v) if i in entry.raw else self._term(v) for i, v in enumerate(node.ins)]
        made = entry.lower(self.low, node.op, *ins)
        return (made,) if isinstance(made, Term) else made

    def _term(self, value: Value) -> Term:
        if value not in self.terms:
            if value not in self.takes:
                raise KeyError(f"{value} is neither taken nor made by the nodes before")
            self.terms[value] = self.low.leaf(self.takes[value], value)
        return self.terms[value]

    def _given(self, value: Value) -> Row:
        term = self.terms[value]
        if self.low.heads and not term.headed:
            raise Unfit(f"{value.type} is not of each head {list(self.low.heads)} by itself")
        return term.row if term.row.token else self.low.make(pw.EachToken(), term.row)

    def _name(self, gives: Mapping[str, Row]) -> None:
        """Calls values what they are called by those who give and take them, and by drawers."""
        program, taken = self.low.program, {*self.takes.values(), *gives}
        # What rules of several ops call by one name, is told by what the op makes
        many = Counter(word for _, ids in self.hinted for word in {program.hints[id] for id in ids})
        for node, ids in self.hinted:
            names = [node.scope.hints.get(v) for v in (*node.outs, *(v for v in node.ins if v.param is not None))]
            made = next((name.removesuffix("_weight") for name in names if name), "")
            for id in ids if made else ():
                word = program.hints[id]
                program.hints[id] = f"{made}_{word}" if many[word] > 1 else word
        for name, row in gives.items():
            program.named(name, row)
        # Of what a drawer calls by one name one after another, the last has it
        for node in reversed(self.nodes):
            for value in node.outs:
                hint, row = node.scope.hints.get(value), self.terms[value].row
                if not hint or not row.args or row.id in program.names:
                    continue
                tried = (hint, f"{hint}_before", f"{hint}_{node.op.kind}")
                name = next((name for name in tried if name not in taken), None)
                if name is None:
                    continue
                taken.add(name)
                program.named(name, row)
                if isinstance(row.rule, r.Take) and math.prod(row.args[0].streams) == math.prod(row.streams):
                    program.hinted(name, row.args[0])


def _read(node: Node) -> Iterator[Value]:
    """The operands whose numbers an op reads."""
    entry = RULES.get(type(node.op))
    yield from (v for i, v in enumerate(node.ins) if entry is None or i not in entry.raw)


def _source(value: Value, inside: Mapping[Value, Node]) -> Value:
    """What a view made inside looks at."""
    while value in inside and inside[value].op.view:
        value = inside[value].ins[0]
    return value
