"""From statements to names: what a model and the models it extends say, the most derived last."""

from __future__ import annotations

from archc.diagnostics import Diagnostic, Related, Span
from archc.diagnostics.suggest import closest
from archc.drawers import drawer_class, kinds
from archc.resolve.names import declared
from archc.resolve.project import Unit, library
from archc.resolve.recipes import Seen
from archc.resolve.resolution import Resolution
from archc.resolve.scope import Amendment, Bound, Definition, Scope
from archc.resolve.suggest import did_you_mean, listed
from archc.schema.describe import describe
from archc.schema.slots import LAYER_SLOTS, slot_names
from archc.syntax import tree

UNFILLED = ("quantization",)
"""Parts of the language whose registries are still empty."""


def chain(r: Resolution, unit: Unit, section: tree.Section) -> list[tuple[Unit, tree.Section]]:
    """The model and those it extends, the most basic first. A base that cannot be found is reported and marks the model
    as broken.
    """
    found: list[tuple[Unit, tree.Section]] = []
    step: tuple[Unit, tree.Section] | None = (unit, section)
    while step is not None:
        found.append(step)
        if step[0] not in r.units:
            r.units.append(step[0])
        extends = step[1].extends
        if extends is None:
            break
        step = _base(r, step[0], extends)
        if step is None:
            r.frame.recipe.broken = r.rootless = True
        elif any(s is step[1] for _, s in found):
            names = " -> ".join(
                f"`{s.labels[0].span.text}`" for _, s in (*found[[s for _, s in found].index(step[1]) :], step)
            )
            r.error("E0107", f"the models extend each other: {names}", extends.span)
            r.frame.recipe.broken = r.rootless = True
            step = None
    return found[::-1]


def _base(r: Resolution, unit: Unit, ref: tree.Ref) -> tuple[Unit, tree.Section] | None:
    name = ref.parts[-1].text
    if len(ref.parts) == 1:
        if name in unit.models:
            return unit, unit.models[name]
        if not unit.lost(name):
            help = did_you_mean(name, unit.models)
            if help is None and name in library():
                help = f'`import "{name}.arch" as base` above, then `extends base.{name}`'
            r.error("E0106", f"there is no model `{name}` in this file", ref.span, help)
        return None
    alias = ref.parts[0].text
    if alias not in unit.imports:
        if not unit.lost(alias):
            r.error("E0106", f"no import is called `{alias}`", ref.parts[0].span, did_you_mean(alias, unit.imports))
        return None
    other = unit.imports[alias]
    if other is None or (other.lost(name) and name not in other.models):
        return None
    if len(ref.parts) == 2 and name in other.models:
        return other, other.models[name]
    r.error(
        "E0106",
        f"there is no model `{'.'.join(p.text for p in ref.parts[1:])}` in `{other.source.name}`",
        ref.span,
        did_you_mean(name, other.models),
    )
    return None


class Merger:
    """Adds the statements of model bodies to a resolution, one body after the other."""

    def __init__(self, r: Resolution) -> None:
        self.r = r

    def body(self, unit: Unit, body: tree.Body) -> None:
        """Adds the statements of one model body."""
        r = self.r
        scope = Scope(unit)
        r.frame.recipe.broken = r.frame.recipe.broken or unit.broken_in(body.span)
        seen = Seen(r)
        for statement in body.statements:
            match statement:
                case tree.Let() | tree.Param():
                    if seen.first(statement.name.text, statement.name.span):
                        self._declare(statement, scope)
                case tree.Declare():
                    self._drawer(statement, scope, seen)
                case tree.Check():
                    r.checks.append((statement, scope))
                case tree.Solve():
                    self._error("E0109", "a `solve` stands inside a sweep", statement.span)
                case tree.Assign(path=path):
                    if seen.first(path.text, path.span):
                        self._assign(statement, scope)
                case tree.AmendPath(path=path, body=inner):
                    self._amend(path.parts, inner, scope, statement.span)
                case tree.Section():
                    self._section(statement, scope, seen)
                case tree.Import():
                    self._error("E0109", "an `import` stands at the top of a file", statement.span)
        for slot in LAYER_SLOTS:
            scheduled, filled = seen.span(f"schedule.{slot}"), seen.span(slot)
            if scheduled and filled:
                r.sink.add(
                    Diagnostic(
                        code="E0306",
                        message=f"`{slot}` fills every layer and is scheduled too",
                        span=scheduled,
                        help=f"give the drawer a name: `{slot} NAME = ...`",
                        related=(Related(span=filled, message="fills every layer here"),),
                    )
                )

    def _declare(self, statement: tree.Let | tree.Param | tree.Declare, scope: Scope) -> None:
        name = statement.name.text
        new = declared(statement, ("model", name), scope)
        old = self.r.names.get(name)
        if old is not None:
            if (old.what == "drawer") != (new.what == "drawer") or old.slot != new.slot:
                self.r.sink.add(
                    Diagnostic(
                        code="E0108",
                        message=f"`{name}` is a {old.slot + ' drawer' if old.slot else old.what} of the extended model",
                        span=statement.name.span,
                        help="choose another name",
                        related=(Related(span=old.name.span, message="first defined here"),),
                    )
                )
                return
            base = new.definition.base
            assert base is not None
            new.definition = old.definition.replaced(base)
        self.r.names[name] = new

    def _drawer(self, statement: tree.Declare, scope: Scope, seen: Seen) -> None:
        slot, name = statement.slot.text, statement.name.text
        slots = slot_names()
        if slot not in slots:
            if slot in UNFILLED:
                self._unfilled(slot, statement.slot.span)
            else:
                near = closest(slot, slots)
                self.r.frame.recipe.excused.add(near or "")
                self._error(
                    "E0113",
                    f"there is no slot `{slot}`",
                    statement.slot.span,
                    f"did you mean `{near}`?" if near else f"slots: {listed(slots)}",
                )
            # the drawer is lost, but its name is known: what uses it must not echo
            self.r.units[0].errors = (*self.r.units[0].errors, statement.span)
            return
        if name in self.r.frame.infos:
            self._error(
                "E0108", f"`{name}` is a field of every model: a drawer needs a name of its own", statement.name.span
            )
            return
        if seen.first(name, statement.name.span):
            self._declare(statement, scope)

    def _assign(self, statement: tree.Assign, scope: Scope) -> None:
        r, parts = self.r, statement.path.parts
        head = parts[0].text
        if head == "schedule" and len(parts) == 2:
            self._scheduled(parts[1], statement, scope)
        elif len(parts) != 1:
            self._amend(parts, statement.value, scope, statement.span)
        elif head in r.frame.infos:
            bound = Bound(statement.value, scope.hiding(("field", head)), statement.span)
            fields = r.frame.recipe.fields
            fields[head] = fields.get(head, Definition()).replaced(bound)
            r.schedule.pop(head, None)
        elif head in r.names:
            named = r.names[head]
            named.definition = named.definition.replaced(
                Bound(statement.value, scope.hiding(("model", head)), statement.span)
            )
        else:
            self._unknown(parts[0])

    def _scheduled(self, slot: tree.Name, statement: tree.Assign, scope: Scope) -> None:
        if slot.text not in LAYER_SLOTS:
            near = closest(slot.text, LAYER_SLOTS)
            self._error(
                "E0310",
                f"`{slot.text}` is not a slot that may differ by layer",
                slot.span,
                f"did you mean `{near}`?" if near else f"slots of a layer: {listed(LAYER_SLOTS)}",
            )
            return
        self.r.schedule[slot.text] = Bound(statement.value, scope, statement.span)
        self.r.frame.recipe.fields.pop(slot.text, None)

    def _section(self, statement: tree.Section, scope: Scope, seen: Seen) -> None:
        head, labels = statement.head.text, statement.labels
        if head == "schedule" and not labels:
            for inner in statement.body.statements:
                if isinstance(inner, tree.Assign) and len(inner.path.parts) == 1:
                    slot = inner.path.parts[0]
                    if seen.first(f"schedule.{slot.text}", slot.span):
                        self._scheduled(slot, inner, scope)
                else:
                    self._error("E0109", "a schedule holds only `SLOT = [...]`", inner.span)
        elif head == "sweep":
            self.r.sweeps.append((statement, scope))
        elif head == "model":
            self._error("E0109", "a model cannot stand inside another", statement.head.span)
        elif labels and (head in self.r.frame.infos or head in slot_names()):
            self._forgotten(statement)
        elif labels or statement.extends:
            near = closest(head, ("schedule", "sweep", *slot_names()))
            self._error(
                "E0109", f"`{head}` cannot stand here", statement.head.span, f"did you mean `{near}`?" if near else None
            )
            self.r.frame.recipe.excused.add(near or "")
        else:
            self._amend((statement.head,), statement.body, scope, statement.span)

    def _forgotten(self, statement: tree.Section) -> None:
        """`attention gqa gqa { }`: a drawer whose `=` is missing."""
        head = statement.head.text
        words = [label.span.text for label in statement.labels]
        right = f"{head} = {words[0]} {{ ... }}" if len(words) == 1 else f"{head} {words[0]} = {words[1]} {{ ... }}"
        self.r.frame.recipe.excused.add(head)
        self._error(
            "E0110",
            f"`=` is missing after `{' '.join((head, *words[:-1]))}`",
            statement.head.span.to(statement.labels[-1].span),
            f"write `{right}`",
        )

    def _amend(self, path: tuple[tree.Name, ...], change: tree.Body | tree.Expr, scope: Scope, statement: Span) -> None:
        r = self.r
        head, rest = path[0], path[1:]
        if head.text in r.frame.infos:
            info = r.frame.infos[head.text]
            fields = r.frame.recipe.fields
            if not info.slot:
                self._error(
                    "E0211",
                    f"`{head.text}` is a value, not a drawer: it has no parts to amend",
                    head.span,
                    f"write `{head.text} = ...`",
                )
            elif head.text in LAYER_SLOTS and head.text not in fields:
                drawers = r.drawers_of(head.text, scope)
                help = (
                    f"amend one of its drawers: {listed(drawers)}"
                    if drawers
                    else f"write `{head.text} = KIND {{ ... }}`"
                )
                if not r.frame.recipe.broken:
                    self._error(
                        "E0117",
                        f"no drawer fills `{head.text}` in every layer: there is nothing to amend",
                        head.span,
                        help,
                    )
            else:
                inside = scope.hiding(("field", head.text))
                fields[head.text] = fields.get(head.text, Definition()).amended(
                    Amendment(rest, change, inside, statement)
                )
            return
        if head.text not in r.names and head.text in scope.unit.names:
            # the file's definition, changed for this model only
            r.names[head.text] = declared(scope.unit.names[head.text], ("model", head.text), Scope(scope.unit))
        named = r.names.get(head.text)
        if named is not None:
            inside = scope.hiding(("model", head.text))
            named.definition = named.definition.amended(Amendment(rest, change, inside, statement))
            return
        self._unknown(head, amending=True)

    def _unknown(self, name: tree.Name, *, amending: bool = False) -> None:
        r = self.r
        if name.text in UNFILLED or name.text in slot_names():
            self._unfilled(name.text, name.span)
            return
        if r.rootless or (amending and r.lost(name.text)):
            return
        near = closest(name.text, (*r.frame.infos, *r.names, "schedule"))
        r.frame.recipe.excused.add(near or "")
        message = f"there is no `{name.text}` to amend" if amending else f"a model has no field `{name.text}`"
        help = (
            f"did you mean `{near}`?"
            if near
            else None
            if amending
            else f"its fields: {listed(r.frame.infos, limit=20)}"
        )
        self._error("E0117" if amending else "E0203", message, name.span, help)

    def _unfilled(self, slot: str, span: Span) -> None:
        fields = [n for n, i in self.r.frame.infos.items() if i.slot]
        if slot in UNFILLED:
            message, help = f"a model has no `{slot}` in this version of archc", f"its slots: {listed(fields)}"
        else:
            parts = ((kind, describe(drawer_class(s, kind))) for s in slot_names() for kind in kinds(s))
            owners = [kind for kind, fields in parts if any(info.slot == slot for info in fields.values())]
            message, help = f"a model has no `{slot}` of its own", f"it is a field of {listed(sorted(owners))}"
        self._error("E0115", message, span, help)

    def _error(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self.r.sink.add(Diagnostic(code=code, message=message, span=span, help=help))
