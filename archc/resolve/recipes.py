"""From an expression to a recipe: the kind of a drawer, and what every body on the way says about its fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from archc.diagnostics import Diagnostic, Related, Span
from archc.diagnostics.suggest import closest
from archc.drawers import DrawerError, drawer_class, kinds
from archc.resolve.scope import FAILED, Amendment, Bound, Definition, Failed, Key, Named, Recipe, Scope
from archc.resolve.suggest import article, did_you_mean, listed
from archc.schema.describe import FieldInfo, describe
from archc.syntax import tree

if TYPE_CHECKING:
    from archc.resolve.resolution import Resolution

Expanded = Recipe | Failed | None
"""A recipe; None for a part that is switched off; FAILED when an error has been reported."""


class Recipes:
    """Expands drawer expressions within one resolution. Recipes of named drawers are made once and copied by what
    derives from them.
    """

    __slots__ = ("_known", "r")

    def __init__(self, r: Resolution) -> None:
        self.r = r
        self._known: dict[tuple[Key, str], Any] = {}

    def expand(self, expr: tree.Expr, scope: Scope, slot: str) -> Expanded:
        """The recipe of the drawer that ``expr`` names or amends, for a field of this slot."""
        match expr:
            case tree.Constant(value=None):
                return None
            case tree.Ref():
                return self._reference(expr, scope, slot)
            case tree.Amend(base=base, body=body):
                found = self._reference(base, scope, slot)
                if found is None:
                    return self._error("E0117", f"`{base.text}` is switched off: there is nothing to amend", base.span)
                if isinstance(found, Failed):
                    return found
                recipe = found.copy(base.span)
                recipe.label = ""
                self.amend(recipe, (), body, scope, expr.span)
                return recipe
        return self._error(
            "E0202",
            f"{article(slot)} {slot} drawer is needed here: a kind, or `KIND {{ ... }}`",
            expr.span,
            f"kinds of {slot}: {listed(kinds(slot, self.r.folders))}" if kinds(slot, self.r.folders) else None,
        )

    def named(self, named: Named, slot: str) -> Expanded:
        """The recipe behind a drawer, or behind a `let` or `param` used where a drawer of this slot is wanted."""
        named.used = True

        def make() -> Expanded:
            if named.what == "param":
                self.r.reads.add(named.key)
            with self.r.entered(named.key, named.text, named.name.span) as open_:
                return self._define(named, slot) if open_ else FAILED

        return self.r.once(self._known, (named.key, slot), make)

    def _define(self, named: Named, slot: str) -> Expanded:
        base = named.definition.base
        assert base is not None
        found = self.expand(base.expr, base.scope, slot)
        amendments = named.definition.amendments
        if isinstance(found, Failed):
            return FAILED
        if found is None:
            if amendments:
                return self._error(
                    "E0117", f"`{named.text}` is `none`: there is nothing to amend", amendments[0].statement
                )
            return None
        recipe = found.copy(found.at)
        if named.what == "drawer":
            recipe.label, recipe.statement = named.text, base.statement
        self.amend_all(recipe, amendments)
        return recipe

    def amend_all(self, recipe: Recipe, amendments: tuple[Amendment, ...]) -> None:
        """Applies amendments in order."""
        for amendment in amendments:
            self.amend(recipe, amendment.path, amendment.change, amendment.scope, amendment.statement)

    def amend(
        self, recipe: Recipe, path: tuple[tree.Name, ...], change: tree.Body | tree.Expr, scope: Scope, statement: Span
    ) -> None:
        """Applies one change below ``path`` of a recipe, or to the recipe itself when the path is empty."""
        if not path:
            assert isinstance(change, tree.Body)
            self._apply(recipe, change, scope)
            return
        head, rest = path[0], path[1:]
        info = self._field(recipe, head)
        if info is None:
            return
        definition = recipe.fields.get(head.text, Definition())
        if not rest and not isinstance(change, tree.Body):
            recipe.fields[head.text] = definition.replaced(Bound(change, scope, statement))
        elif info.slot:
            recipe.fields[head.text] = definition.amended(Amendment(rest, change, scope, statement))
        else:
            self._error(
                "E0211",
                f"`{head.text}` is a value, not a drawer: it has no parts to amend",
                head.span,
                f"write `{head.text} = ...`",
            )

    def _apply(self, recipe: Recipe, body: tree.Body, scope: Scope) -> None:
        recipe.broken = recipe.broken or scope.unit.broken_in(body.span)
        scope = scope.within(self.r.lets(body, scope))
        seen = Seen(self.r)
        for statement in body.statements:
            match statement:
                case tree.Let():
                    pass
                case tree.Assign(path=path):
                    if seen.first(path.text, path.span):
                        self.amend(recipe, path.parts, statement.value, scope, statement.span)
                case tree.AmendPath(path=path, body=inner):
                    self.amend(recipe, path.parts, inner, scope, statement.span)
                case tree.Section(head=head, labels=(), extends=None, body=inner):
                    self.amend(recipe, (head,), inner, scope, statement.span)
                case tree.Section(head=head, labels=labels):
                    info = describe(recipe.cls).get(head.text)
                    if info is not None and labels:
                        recipe.excused.add(head.text)
                        self._error(
                            "E0110",
                            f"`=` is missing after `{head.text}`",
                            head.span,
                            f"write `{head.text} = {labels[-1].span.text} {{ ... }}`",
                        )
                    else:
                        self._error("E0109", "this cannot stand inside a drawer", head.span)
                case tree.Declare(slot=slot):
                    self._error(
                        "E0109", f"a named {slot.text} drawer stands in the model, not inside a drawer", statement.span
                    )
                case _:
                    self._error("E0109", "a drawer holds only its fields", statement.span)

    def _field(self, recipe: Recipe, name: tree.Name) -> FieldInfo | None:
        infos = describe(recipe.cls)
        info = infos.get(name.text)
        if info is None:
            near = closest(name.text, infos)
            if near:
                recipe.excused.add(near)
            fields = f"its fields: {listed(infos)}" if infos else "it has no fields"
            self._error(
                "E0203",
                f"`{recipe.cls.kind}` has no field `{name.text}`",
                name.span,
                f"did you mean `{near}`?" if near else fields,
            )
        return info

    def _reference(self, ref: tree.Ref, scope: Scope, slot: str) -> Expanded:
        if len(ref.parts) != 1:
            return self._far(ref, scope, slot)
        name = ref.parts[0].text
        named = self.r.drawer(name, slot, scope)
        if named is not None:
            found = self.named(named, slot)
        elif name in kinds_of(self.r, slot, ref.span):
            return self._kind(slot, name, ref.span)
        else:
            found = self._value(name, slot, scope, ref)
        return found.copy(ref.span) if isinstance(found, Recipe) else found

    def _value(self, name: str, slot: str, scope: Scope, ref: tree.Ref) -> Expanded:
        """A `let`, `param` or model field that holds a drawer of this slot; else a kind of an installed package; else
        an error.
        """
        named = self.r.find(name, scope)
        if named is not None and named.what != "drawer":
            return self.named(named, slot)
        info = self.r.frame.infos.get(name)
        if info is not None and info.slot == slot and ("field", name) not in scope.hidden:
            return self.r.frame.recipe_of(name)
        try:
            return self._kind(slot, name, ref.span)
        except KeyError:
            return self._unknown(name, slot, scope, named, ref)

    def _kind(self, slot: str, kind: str, span: Span) -> Recipe | Failed:
        try:
            return Recipe(drawer_class(slot, kind, self.r.folders), span)
        except DrawerError as error:
            unusable(self.r, error, span)
            return FAILED

    def _unknown(self, name: str, slot: str, scope: Scope, named: Named | None, ref: tree.Ref) -> Failed:
        if named is not None:
            return self._error(
                "E0114",
                f"`{name}` is {article(named.slot)} {named.slot} drawer; {article(slot)} {slot} drawer is needed here",
                ref.span,
            )
        if self.r.lost(name):
            return FAILED
        known = kinds(slot, self.r.folders, installed=True)
        drawers = self.r.drawers_of(slot, scope)
        if not known and not drawers:
            return self._error(
                "E0115",
                f"there are no kinds of {slot}, so no `{name}`",
                ref.span,
                "`archc drawers` lists the slots and their kinds",
            )
        help = did_you_mean(name, (*drawers, *known, *self.r.value_names(scope)))
        if help is None:
            parts = (f"drawers: {listed(drawers)}" if drawers else "", f"kinds: {listed(known)}" if known else "")
            help = "; ".join(p for p in parts if p)
        own = self.r.names.get(name)
        if own is not None and own.key in scope.hidden and len(own.definition.history) > 1:
            help = f"a name never means itself; write `{name} {{ ... }}` without `=` to amend it"
        return self._error("E0114", f"there is no {slot} drawer or kind `{name}`", ref.span, help)

    def _far(self, ref: tree.Ref, scope: Scope, slot: str) -> Expanded:
        """A drawer of another file (`o.csa`), or a part of another drawer (`swa.rope`)."""
        unit = scope.unit.imports.get(ref.parts[0].text, FAILED)
        if unit is None:
            return FAILED
        if not isinstance(unit, Failed):
            named = self.r.in_file(unit, ref.parts[1].text)
            if named is None or len(ref.parts) > 2:
                return self.r.not_in_file(unit, ref)
            if named.what == "drawer" and named.slot != slot:
                return self._unknown(ref.text, slot, scope, named, ref)
            found = self.named(named, slot)
            return found.copy(ref.span) if isinstance(found, Recipe) else found
        frame = self.r.start(ref, scope)
        for part in ref.parts[1:-1]:
            if frame is None or isinstance(frame, Failed):
                return FAILED
            frame = frame.part(part)
        if frame is None or isinstance(frame, Failed):
            return FAILED
        info = frame.info(ref.parts[-1])
        if info is None:
            return FAILED
        if info.slot != slot:
            return self._error(
                "E0114", f"`{ref.text}` is {info.wanted}; {article(slot)} {slot} drawer is needed here", ref.span
            )
        found = frame.recipe_of(info.name)
        return found.copy(ref.span) if isinstance(found, Recipe) else found

    def _error(self, code: str, message: str, span: Span, help: str | None = None) -> Failed:
        self.r.sink.add(Diagnostic(code=code, message=message, span=span, help=help))
        return FAILED


class Seen:
    """Finds names that one body sets twice."""

    __slots__ = ("_spans", "r")

    def __init__(self, r: Resolution) -> None:
        self.r = r
        self._spans: dict[str, Span] = {}

    def first(self, name: str, span: Span) -> bool:
        """Whether ``name`` is met for the first time; an error otherwise."""
        if name not in self._spans:
            self._spans[name] = span
            return True
        self.r.sink.add(
            Diagnostic(
                code="E0108",
                message=f"`{name}` is defined twice",
                span=span,
                related=(Related(span=self._spans[name], message="first defined here"),),
            )
        )
        return False

    def span(self, name: str) -> Span | None:
        """Where ``name`` was set, None when it was not."""
        return self._spans.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)


def kinds_of(r: Resolution, slot: str, span: Span) -> tuple[str, ...]:
    """The kinds of a slot; none (and a diagnostic) when a file given with `--drawers` cannot be read."""
    try:
        return kinds(slot, r.folders)
    except DrawerError as error:
        unusable(r, error, span)
        return kinds(slot)


def unusable(r: Resolution, error: DrawerError, span: Span) -> None:
    """Reports a drawer file once: a single file is read to learn its slot, whatever slot is asked about."""
    message = f"the drawer file {error.path} cannot be used: {error.reason}"
    if all(d.message != message for d in r.sink.items):
        r.sink.add(Diagnostic(code="E0116", message=message, span=span))
