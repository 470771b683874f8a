"""Values from the command line: `-P name=value` sets a declared param, `--set path=value` replaces anything. Both are
parsed and checked like source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archc.diagnostics import Diagnostic, Sink, Source
from archc.record import dataclass
from archc.resolve.merge import Merger
from archc.resolve.resolution import Resolution
from archc.resolve.scope import Bound, Scope
from archc.resolve.suggest import did_you_mean, listed
from archc.resolve.sweeps import param_names
from archc.syntax import tree


@dataclass(frozen=True, slots=True)
class Overrides:
    """The statements that `-P` and `--set` stand for."""

    params: tuple[tree.Assign, ...]
    sets: tuple[tree.Assign, ...]

    def apply(self, r: Resolution, merger: Merger) -> None:
        """Adds them to a model, after everything its files say."""
        scope = Scope(r.unit)
        for statement in self.params:
            self._param(r, statement, scope)
        for statement in self.sets:
            merger.body(r.unit, tree.Body(span=statement.span, statements=(statement,)))

    def _param(self, r: Resolution, statement: tree.Assign, scope: Scope) -> None:
        name = statement.path.text
        named = r.names.get(name) or r.in_file(r.unit, name)
        if named is None or named.what != "param":
            params = param_names(r, scope)
            what = "a let" if named is not None and named.what == "let" else None
            help = did_you_mean(name, params) or (
                f"params: {listed(params)}" if params else "this model declares none; `--set` amends any value"
            )
            r.error(
                "E0118",
                f"`{name}` is {what}, not a param" if what else f"there is no param `{name}`",
                statement.path.span,
                help,
            )
            return
        named.definition = named.definition.replaced(Bound(statement.value, scope.hiding(named.key), statement.span))


def parsed(sink: Sink, params: Mapping[str, Any], sets: Mapping[str, Any]) -> Overrides:
    """The statements for values as the command line (text) or Python (numbers, truth values, lists) gives them."""
    return Overrides(_statements(sink, "<-P>", params), _statements(sink, "<--set>", sets))


def _statements(sink: Sink, source: str, values: Mapping[str, Any]) -> tuple[tree.Assign, ...]:
    if not values:
        return ()
    from archc.syntax.parser import parse  # files come from kept trees: without options there is nothing to parse

    found: list[tree.Assign] = []
    for path, value in values.items():
        written = Source(source, f"{path} = {_text(value)}")
        known = len(sink.errors)
        statements = parse(written, sink).body.statements
        if len(statements) == 1 and isinstance(statements[0], tree.Assign):
            found.append(statements[0])
        elif len(sink.errors) == known:
            span = statements[-1].span if statements else None
            sink.add(Diagnostic(code="E0109", message=f"`{written.text}` is not one `path = value`", span=span))
    return tuple(found)


def _text(value: Any) -> str:
    """A Python value as the language writes it; text is taken as written."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)
