"""The syntax tree of an `.arch` file: frozen, with the span of every node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archc.diagnostics import Source, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Any piece of the tree."""

    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Name(Node):
    """An identifier."""

    text: str


# --- expressions ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Node):
    """A literal number, its unit applied: `4Ki` is 4096. `unit` is the suffix as written ("" when there is none)."""

    value: int | float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class String(Node):
    """A literal string, unescaped."""

    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Node):
    """`true`, `false` or `none`."""

    value: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref(Node):
    """A dotted name."""

    parts: tuple[Name, ...]

    @property
    def text(self) -> str:
        """The name as written."""
        return ".".join(p.text for p in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend(Node):
    """`base { changes }`."""

    base: Ref
    body: Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword(Node):
    """`name = value` in a call."""

    name: Name
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Node):
    """`cost.kv_cache.bytes_total(context = 4Ki)`."""

    ref: Ref
    args: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class List(Node):
    """`[a, b, c]`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Node):
    """`(a, b)`: two or more things in turn, in a schedule."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Node):
    """`-x`, `+x` or `not x`."""

    op: Literal["-", "+", "not"]
    operand: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary(Node):
    """Arithmetic, comparison or logic. `*` is also the repeat of a schedule."""

    op: Literal["+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or"]
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Range(Node):
    """`start..stop by step`, both ends included; an open end (`3..`) reaches the last layer."""

    start: Expr
    stop: Expr | None
    step: Expr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed(Node):
    """`drawer at where`."""

    item: Expr
    where: Expr


Expr = Number | String | Constant | Ref | Amend | Call | List | Group | Unary | Binary | Range | Placed


# --- statements ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Node):
    """`doc` holds the `##` lines above the statement, joined by newlines, "" when there are none."""

    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import(Statement):
    """`import "other.arch" as o`."""

    path: String
    alias: Name | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Let(Statement):
    """`let name = value`."""

    name: Name
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Param(Statement):
    """`param name = value in domain`."""

    name: Name
    value: Expr
    domain: Expr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Statement):
    """`check condition else "why"`."""

    condition: Expr
    why: String | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign(Statement):
    """`path = value`: replaces. `path` has one part for a plain field."""

    path: Ref
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Declare(Statement):
    """`slot name = value`: a named drawer (`attention csa = ...`)."""

    slot: Name
    name: Name
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Statement):
    """`head label... extends base { ... }`: a model, a schedule, a sweep; with neither label nor base it amends."""

    head: Name
    labels: tuple[Name | Number | String, ...]
    extends: Ref | None
    body: Body


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendPath(Statement):
    """`a.b { ... }`: amends at a dotted path."""

    path: Ref
    body: Body


Stmt = Import | Let | Param | Check | Assign | Declare | Section | AmendPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Body(Node):
    """The statements between braces (the braces are in the span), or of a whole file."""

    statements: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Node):
    """One `.arch` file."""

    source: Source
    edition: Number | None
    body: Body
