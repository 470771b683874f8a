"""What resolve knows about a name: which expression sets it, what has been amended since, and where its names are
looked up.

Nothing here is evaluated. Values are late-bound: an expression is kept with its scope and evaluated in the finished
model, so that a child's `dim` reaches a parent's `hidden = 4 * dim`.
"""

from __future__ import annotations

from dataclasses import field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

from archc.diagnostics import Span
from archc.record import dataclass
from archc.schema import Drawer
from archc.syntax.tree import Body, Expr, Name

if TYPE_CHECKING:
    from archc.resolve.project import Unit


class Failed(Enum):
    """The value of what could not be resolved. Its error has been reported; whatever depends on it fails in silence."""

    FAILED = "failed"


FAILED: Final = Failed.FAILED

Key = tuple[str, str]
"""What a definition is called: ("model", name), ("field", name), or the id of a file and a name in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """Where the names of an expression are looked up: `let`s of the bodies around it (innermost last), then the model,
    then the file.

    ``hidden`` are the definitions that the expression itself is part of: a name never means itself, so that `ffn moe =
    moe { }` names the kind.
    """

    unit: Unit
    locals: tuple[dict[str, Named], ...] = ()
    hidden: frozenset[Key] = frozenset()

    def hiding(self, key: Key) -> Scope:
        """The scope inside the definition called ``key``."""
        return replace(self, hidden=self.hidden | {key})

    def within(self, names: dict[str, Named]) -> Scope:
        """The scope inside a body with `let`s of its own."""
        return replace(self, locals=(*self.locals, names)) if names else self


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """An expression, the scope of its names, and the span of the statement it stands in."""

    expr: Expr
    scope: Scope
    statement: Span


@dataclass(frozen=True, slots=True, eq=False)
class Amendment:
    """A change to something that exists: at ``path`` below the thing, ``change`` amends (a body) or replaces (an
    expression).
    """

    path: tuple[Name, ...]
    change: Body | Expr
    scope: Scope
    statement: Span


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """All that the specs say about one field, drawer, `let` or `param`.

    ``base`` is the last expression that replaced it (None: still its default), ``amendments`` came after it,
    ``history`` holds the spans of all expressions that ever set it, the one in force first.
    """

    base: Bound | None = None
    amendments: tuple[Amendment, ...] = ()
    history: tuple[Span, ...] = ()

    def replaced(self, base: Bound) -> Definition:
        """The definition after `name = expr`."""
        return Definition(base=base, history=(base.expr.span, *self.history))

    def amended(self, amendment: Amendment) -> Definition:
        """The definition after `name { ... }` or `name.path = expr`."""
        return replace(self, amendments=(*self.amendments, amendment))


@dataclass(slots=True, eq=False)
class Named:
    """A name that a statement declares: a drawer, a `let` or a `param`."""

    key: Key
    what: Literal["drawer", "let", "param"]
    definition: Definition
    name: Name
    doc: str = ""
    slot: str = ""
    """The slot of a drawer."""
    domain: Bound | None = None
    """The values that a `param` may take."""
    used: bool = False

    @property
    def text(self) -> str:
        """The name."""
        return self.name.text


@dataclass(slots=True, eq=False)
class Recipe:
    """A drawer before it is made: its kind and what the specs say about each of its fields."""

    cls: type[Drawer]
    at: Span | None
    """The reference to the kind or drawer it is made from: where what it lacks is reported."""
    fields: dict[str, Definition] = field(default_factory=dict)
    label: str = ""
    statement: Span | None = None
    excused: set[str] = field(default_factory=set)
    """Fields that a misspelt statement was probably meant to set: not reported as missing."""
    broken: bool = False
    """A statement in one of its bodies did not parse: nothing is reported as missing."""

    @property
    def title(self) -> str:
        """What messages call it: its kind; the name of a model."""
        return self.cls.kind or self.label

    def given_at(self, name: str) -> Span | None:
        """Where a field was last set, None when no spec sets it."""
        definition = self.fields.get(name)
        return definition.history[0] if definition is not None and definition.history else None

    def copy(self, at: Span | None) -> Recipe:
        """A recipe to change, made from this one by the reference at ``at``."""
        return Recipe(self.cls, at, dict(self.fields), self.label, self.statement, set(self.excused), self.broken)
