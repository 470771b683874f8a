"""The syntax tree of an `.arch` file: frozen, with the span of every node."""

from __future__ import annotations

from typing import Literal

from archc.diagnostics import Source, Span
from archc.record import Record


class Node(Record):
    """Any piece of the tree."""

    span: Span


class Name(Node):
    """An identifier."""

    text: str


# --- expressions ---------------------------------------------------------------------------------
class Number(Node):
    """A literal number, its unit applied: `4Ki` is 4096. `unit` is the suffix as written ("" when there is none)."""

    value: int | float
    unit: str


class String(Node):
    """A literal string, unescaped."""

    value: str


class Constant(Node):
    """`true`, `false` or `none`."""

    value: bool | None


class Ref(Node):
    """A dotted name."""

    parts: tuple[Name, ...]

    @property
    def text(self) -> str:
        """The name as written."""
        return ".".join(p.text for p in self.parts)


class Amend(Node):
    """`base { changes }`."""

    base: Ref
    body: Body


class Keyword(Node):
    """`name = value` in a call."""

    name: Name
    value: Expr


class Call(Node):
    """`cost.kv_cache.bytes_total(context = 4Ki)`."""

    ref: Ref
    args: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]


class List(Node):
    """`[a, b, c]`."""

    items: tuple[Expr, ...]


class Group(Node):
    """`(a, b)`: two or more things in turn, in a schedule."""

    items: tuple[Expr, ...]


class Unary(Node):
    """`-x`, `+x` or `not x`."""

    op: Literal["-", "+", "not"]
    operand: Expr


class Binary(Node):
    """Arithmetic, comparison or logic. `*` is also the repeat of a schedule."""

    op: Literal["+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or"]
    left: Expr
    right: Expr


class Range(Node):
    """`start..stop by step`, both ends included; an open end (`3..`) reaches the last layer."""

    start: Expr
    stop: Expr | None
    step: Expr | None


class Placed(Node):
    """`drawer at where`."""

    item: Expr
    where: Expr


Expr = Number | String | Constant | Ref | Amend | Call | List | Group | Unary | Binary | Range | Placed


# --- statements ----------------------------------------------------------------------------------
class Statement(Node):
    """`doc` holds the `##` lines above the statement, joined by newlines, "" when there are none."""

    doc: str = ""


class Import(Statement):
    """`import "other.arch" as o`."""

    path: String
    alias: Name | None


class Let(Statement):
    """`let name = value`."""

    name: Name
    value: Expr


class Param(Statement):
    """`param name = value in domain`."""

    name: Name
    value: Expr
    domain: Expr | None


class Check(Statement):
    """`check condition else "why"`."""

    condition: Expr
    why: String | None


class Solve(Statement):
    """`solve param for equation within tolerance`."""

    param: Name
    equation: Expr
    tolerance: Expr | None


class Assign(Statement):
    """`path = value`: replaces. `path` has one part for a plain field."""

    path: Ref
    value: Expr


class Declare(Statement):
    """`slot name = value`: a named drawer (`attention csa = ...`)."""

    slot: Name
    name: Name
    value: Expr


class Section(Statement):
    """`head label... extends base { ... }`: a model, a schedule, a sweep; with neither label nor base it amends."""

    head: Name
    labels: tuple[Name | Number | String, ...]
    extends: Ref | None
    body: Body


class AmendPath(Statement):
    """`a.b { ... }`: amends at a dotted path."""

    path: Ref
    body: Body


Stmt = Import | Let | Param | Check | Solve | Assign | Declare | Section | AmendPath


class Body(Node):
    """The statements between braces (the braces are in the span), or of a whole file."""

    statements: tuple[Stmt, ...]


class File(Node):
    """One `.arch` file."""

    source: Source
    edition: Number | None
    body: Body
