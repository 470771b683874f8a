"""`sweep NAME { param = [...], solve other for a == b }`: a named family of variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archc.diagnostics import Diagnostic, Span
from archc.resolve.checks import in_words
from archc.resolve.resolution import Resolution
from archc.resolve.scope import FAILED, Bound, Named, Scope
from archc.resolve.suggest import did_you_mean, listed
from archc.schema.model import Sweep
from archc.syntax import tree

if TYPE_CHECKING:
    from archc.resolve.solves import Solve


def sweeps(r: Resolution, sections: list[tuple[tree.Section, Scope]]) -> tuple[Sweep, ...]:
    """The sweeps among ``sections``, with every value checked against its param's domain. Those of a base model come
    first.
    """
    found: dict[str, tuple[Sweep, Span]] = {}
    for section, scope in sections:
        name = section.labels[0] if section.labels else None
        if not isinstance(name, tree.Name) or len(section.labels) > 1:
            _error(r, "E0109", "a sweep has one name", section.head.span, "write `sweep NAME { param = [...] }`")
            continue
        swept: list[tuple[str, tuple[Any, ...]]] = []
        for statement in section.body.statements:
            if isinstance(statement, tree.Solve):
                continue
            if not isinstance(statement, tree.Assign):
                _error(r, "E0109", "a sweep holds only `param = [...]` and `solve param for a == b`", statement.span)
                continue
            values = _values(r, statement, scope)
            if values is not None:
                if any(statement.path.text == other for other, _ in swept):
                    _error(r, "E0108", f"`{statement.path.text}` is defined twice", statement.path.span)
                swept.append((statement.path.text, values))
        solves = _solves(r, section, scope, [name for name, _ in swept])
        found[name.text] = (Sweep(name=name.text, doc=section.doc, values=tuple(swept), solves=solves), name.span)
    return tuple(sweep for sweep, _ in found.values())


def _solves(r: Resolution, section: tree.Section, scope: Scope, swept: list[str]) -> tuple[Solve, ...]:
    statements = [s for s in section.body.statements if isinstance(s, tree.Solve)]
    if not statements:
        return ()
    from archc.resolve.solves import solve_of

    found: dict[str, Solve] = {}
    for statement in statements:
        param = statement.param
        if param.text in swept or param.text in found:
            twice = "swept, so it cannot be solved for" if param.text in swept else "solved for twice"
            _error(r, "E0108", f"`{param.text}` is {twice}", param.span)
            continue
        named = _param(r, param.text, param.span, scope, "solve for")
        solve = None if named is None else solve_of(r, statement, named, scope)
        if solve is not None:
            found[param.text] = solve
    return tuple(found.values())


def _param(r: Resolution, name: str, span: Span, scope: Scope, to: str) -> Named | None:
    """The param of a name, None after an error."""
    named = r.find(name, scope)
    if named is not None and named.what == "param":
        return named
    if not r.lost(name):
        params = param_names(r, scope)
        help = did_you_mean(name, params) or (
            f"params: {listed(params)}" if params else f"declare it: `param {name} = ... in [...]`"
        )
        _error(r, "E0118", f"there is no param `{name}` to {to}", span, help)
    return None


def _values(r: Resolution, statement: tree.Assign, scope: Scope) -> tuple[Any, ...] | None:
    path = statement.path
    named = _param(r, path.text, path.span, scope, "sweep")
    if named is None:
        return None
    items = statement.value.items if isinstance(statement.value, tree.List) else (statement.value,)
    if not isinstance(statement.value, tree.List | tree.Range):
        _error(
            r,
            "E0202",
            "a sweep gives a list or a range of values",
            statement.value.span,
            f"write `{path.text} = [...]`",
        )
        return None
    found = [v for item in items for v in _item(r, named, item, scope, statement.span)]
    return None if any(v is FAILED for v in found) else tuple(in_words(v) for v in found)


def _item(r: Resolution, named: Named, item: tree.Expr, scope: Scope, statement: Span) -> list[Any]:
    if not isinstance(item, tree.Range):
        return [r.in_domain(named, Bound(item, scope, statement))]
    values = r.evaluator.range(item, scope)
    if values is FAILED:
        return [FAILED]
    if len(values) > 10_000:
        _error(r, "E0209", f"the range has {len(values):_} values, more than 10_000", item.span)
        return [FAILED]
    # every value of the range is checked, each as if it had been written there
    literals = (tree.Number(span=item.span, value=v, unit="") for v in values)
    return [r.in_domain(named, Bound(n, scope, statement)) for n in literals]


def param_names(r: Resolution, scope: Scope) -> tuple[str, ...]:
    """The params in scope: those of the model, then those of the file."""
    own = [n.text for n in r.names.values() if n.what == "param"]
    return (*own, *(n for n, s in scope.unit.names.items() if isinstance(s, tree.Param) and n not in own))


def _error(r: Resolution, code: str, message: str, span: Span, help: str | None = None) -> None:
    r.sink.add(Diagnostic(code=code, message=message, span=span, help=help))
