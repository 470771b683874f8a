"""The names that a model draws on: which drawer, `let` or `param` a name means in a scope."""

from __future__ import annotations

from dataclasses import replace

from archc.diagnostics import Diagnostic, Sink, Span
from archc.resolve.project import Unit
from archc.resolve.scope import FAILED, Bound, Definition, Failed, Key, Named, Scope
from archc.syntax import tree


class Names:
    """The names of one model and of the files it draws on. `merge` fills it."""

    def __init__(self, sink: Sink, unit: Unit) -> None:
        self.sink = sink
        self.unit = unit
        self.units: list[Unit] = [unit]
        """The files that the model draws on, its own first."""
        self.names: dict[str, Named] = {}
        """Drawers, lets and params of the model and the models it extends."""
        self.rootless = False
        """A model that this one extends could not be found: any name may have been its."""
        self._files: dict[Key, Named] = {}

    def error(self, code: str, message: str, span: Span | None, help: str | None = None) -> Failed:
        """FAILED, after reporting an error."""
        self.sink.add(Diagnostic(code=code, message=message, span=span, help=help))
        return FAILED

    def lost(self, name: str) -> bool:
        """Whether ``name`` was probably defined by what could not be read: its absence is an echo."""
        return self.rootless or any(unit.lost(name) for unit in self.units)

    def find(self, name: str, scope: Scope) -> Named | None:
        """The drawer, `let` or `param` that ``name`` means in a scope: the innermost body first, then the model, then
        the file.
        """
        for names in reversed(scope.locals):
            found = names.get(name)
            if found is not None and found.key not in scope.hidden:
                return found
        found = self.names.get(name)
        if found is not None and found.key not in scope.hidden:
            return found
        found = self.in_file(scope.unit, name)
        return found if found is not None and found.key not in scope.hidden else None

    def in_file(self, unit: Unit, name: str) -> Named | None:
        """What a file itself declares under ``name``, None when it does not."""
        statement = unit.names.get(name)
        if statement is None:
            return None
        key = (str(id(unit)), name)
        if key not in self._files:
            self._files[key] = declared(statement, key, Scope(unit))
            if unit not in self.units:
                self.units.append(unit)
        return self._files[key]

    def drawer(self, name: str, slot: str, scope: Scope) -> Named | None:
        """The named drawer of a slot that ``name`` means in a scope."""
        for found in (self.names.get(name), self.in_file(scope.unit, name)):
            if found is not None and found.what == "drawer" and found.slot == slot and found.key not in scope.hidden:
                return found
        return None

    def drawers_of(self, slot: str, scope: Scope) -> tuple[str, ...]:
        """The names of the drawers of a slot that may be used in a scope, in the order of their declaration."""
        own = [n for n in self.names.values() if n.what == "drawer" and n.slot == slot and n.key not in scope.hidden]
        names = [n.text for n in own]
        for name, statement in scope.unit.names.items():
            if isinstance(statement, tree.Declare) and statement.slot.text == slot and name not in self.names:
                names.append(name)
        return tuple(names)

    def value_names(self, scope: Scope) -> tuple[str, ...]:
        """The lets and params in scope."""
        found = [n for names in scope.locals for n in names]
        found += [n.text for n in self.names.values() if n.what != "drawer"]
        return (*found, *(n for n, s in scope.unit.names.items() if not isinstance(s, tree.Declare)))

    def lets(self, body: tree.Body, scope: Scope) -> dict[str, Named]:
        """The `let`s of a drawer's body."""
        found: dict[str, Named] = {}
        inside = replace(scope, locals=(*scope.locals, found))
        for statement in body.statements:
            if isinstance(statement, tree.Let):
                key = (str(id(statement)), statement.name.text)
                if statement.name.text in found:
                    self.error("E0108", f"`{statement.name.text}` is defined twice", statement.name.span)
                if key not in self._files:
                    self._files[key] = declared(statement, key, inside)
                found[statement.name.text] = self._files[key]
        return found


def declared(statement: tree.Let | tree.Param | tree.Declare, key: Key, scope: Scope) -> Named:
    """What a `let`, `param` or named drawer says about its name."""
    inside = scope.hiding(key)
    definition = Definition().replaced(Bound(statement.value, inside, statement.span))
    match statement:
        case tree.Declare():
            return Named(key, "drawer", definition, statement.name, statement.doc, slot=statement.slot.text)
        case tree.Param(domain=domain):
            bound = Bound(domain, inside, statement.span) if domain is not None else None
            return Named(key, "param", definition, statement.name, statement.doc, domain=bound)
        case _:
            return Named(key, "let", definition, statement.name, statement.doc)
