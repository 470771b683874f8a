"""One model being resolved: its values, and what a name on the right of `=` stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from archc.diagnostics import Sink, Span
from archc.resolve.convert import Misfit, Word, converted, unknown_word
from archc.resolve.domains import domain as domain_of
from archc.resolve.evaluate import Evaluator
from archc.resolve.frames import Frame
from archc.resolve.names import Names
from archc.resolve.project import Unit
from archc.resolve.recipes import Recipes
from archc.resolve.scope import FAILED, Bound, Failed, Key, Named, Recipe, Scope
from archc.resolve.suggest import article, did_you_mean, listed
from archc.schema import LayerSlots, ModelFields
from archc.schema.describe import FieldInfo, describe
from archc.syntax import tree

T = TypeVar("T")

MAX_DEPTH = 60
"""How many definitions may lead to one another before a spec counts as nested too deeply."""


def model_infos() -> dict[str, FieldInfo]:
    """The fields of a model as a spec sees them: those of its schema, then the slots that may differ by layer."""
    return describe(ModelFields) | describe(LayerSlots)


class Resolution(Names):
    """The state of one resolution. `merge` fills it, `frames`, `recipes` and `schedules` read it."""

    def __init__(self, sink: Sink, unit: Unit, folders: tuple[Path, ...]) -> None:
        super().__init__(sink, unit)
        self.folders = folders
        self.schedule: dict[str, Bound] = {}
        """The schedule of each slot that has one."""
        self.checks: list[tuple[tree.Check, Scope]] = []
        self.sweeps: list[tuple[tree.Section, Scope]] = []
        self.scope = Scope(unit)
        self.recipes = Recipes(self)
        self.evaluator = Evaluator(self)
        self.frame = Frame(self, Recipe(ModelFields, None), None, model_infos())
        self._active: dict[Key, str] = {}
        self._values: dict[Key, Any] = {}
        self.columns: dict[str, Any] = {}
        """What every layer holds in a slot, once its schedule has been expanded."""
        self.entries: dict[int, Any] = {}
        """The drawers that stand in schedules without a name."""
        self.reads: set[Key] = set()
        """The params that what is being made has read so far."""
        self._kept: list[tuple[dict[Any, Any], Any, frozenset[Key]]] = []

    def once(self, store: dict[Any, Any], key: Any, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once and kept in ``store``, with the params it was made of: `forget` needs them."""
        if key in store:
            value, reads = store[key]
        else:
            outer, self.reads = self.reads, set()
            try:
                value = make()
            finally:
                reads, self.reads = frozenset(self.reads), outer
            store[key] = value, reads
            if reads:
                self._kept.append((store, key, reads))
        self.reads |= reads
        return value

    def forget(self, params: AbstractSet[Key]) -> None:
        """Drops what was made of any of these params, so that it is made anew."""
        kept, self._kept = self._kept, []
        for store, key, reads in kept:
            if reads & params:
                del store[key]
            else:
                self._kept.append((store, key, reads))

    @contextmanager
    def entered(self, key: Key, name: str, span: Span | None) -> Iterator[bool]:
        """Whether the definition ``key`` may be evaluated now; an error when it leads back to itself or too deep."""
        if key in self._active:
            keys = list(self._active)
            chain = [self._active[k] for k in keys[keys.index(key) :]]
            self.error(
                "E0119", f"`{name}` is defined by itself: " + " -> ".join(f"`{n}`" for n in (*chain, name)), span
            )
            yield False
        elif len(self._active) >= MAX_DEPTH:
            self.error("E0120", f"more than {MAX_DEPTH} definitions lead to `{name}`", span, "use fewer steps")
            yield False
        else:
            self._active[key] = name
            try:
                yield True
            finally:
                del self._active[key]

    def converted(self, bound: Bound, info: FieldInfo) -> Any:
        """The value of an expression as a field stores it; FAILED after an error."""
        value = self.evaluator.value(bound.expr, bound.scope, info)
        try:
            return converted(value, info, bound.expr.span)
        except Misfit as error:
            self.sink.add(error.diagnostic)
            return FAILED

    def read(self, ref: tree.Ref, scope: Scope, info: FieldInfo | None = None) -> Any:
        """The value that a name on the right stands for; FAILED after an error. ``info`` is the field it is for."""
        if len(ref.parts) != 1:
            return self._read_far(ref, scope)
        name = ref.parts[0].text
        named = self._value_named(name, scope)
        if named is not None:
            return self.value_of(named, info)
        field = self.frame.infos.get(name)
        if field is not None and ("field", name) not in scope.hidden:
            if not field.slot:
                return self.frame.get(name)
            return self.error("E0118", f"`{name}` is {field.wanted}, not a value", ref.span)
        return self._unknown(ref, scope, info)

    def _value_named(self, name: str, scope: Scope) -> Named | None:
        """The `let` or `param` that a value's name means; one of the file comes after the model's fields."""
        named = self.find(name, scope)
        if named is None or named.what == "drawer":
            return None
        if named.key[0] == str(id(scope.unit)) and name in self.frame.infos and ("field", name) not in scope.hidden:
            return None
        return named

    def value_of(self, named: Named, info: FieldInfo | None = None) -> Any:
        """The value of a `let` or `param`."""
        named.used = True
        definition = named.definition
        assert definition.base is not None
        if definition.amendments:
            return self.error(
                "E0211", f"`{named.text}` is a value: it has no parts to amend", definition.amendments[0].statement
            )
        if named.what == "param":
            return self.param_value(named)
        # a bare name may be a word of the field that asks: only then does the value depend on who asks
        plain = not isinstance(definition.base.expr, tree.Ref | tree.List)

        def make() -> Any:
            assert definition.base is not None
            with self.entered(named.key, named.text, named.name.span) as open_:
                return self.evaluator.value(definition.base.expr, definition.base.scope, info) if open_ else FAILED

        if plain:
            return self.once(self._values, named.key, make)
        if named.key in self._values:  # it has failed
            return self._values[named.key][0]
        value = make()
        return self.once(self._values, named.key, lambda: value) if value is FAILED else value

    def param_value(self, named: Named) -> Any:
        """The value of a `param`, checked against its domain; a bare name that means nothing else stands for itself."""
        base = named.definition.base
        assert base is not None

        def make() -> Any:
            self.reads.add(named.key)
            with self.entered(named.key, named.text, named.name.span) as open_:
                return self.in_domain(named, base) if open_ else FAILED

        return self.once(self._values, named.key, make)

    def in_domain(self, named: Named, bound: Bound) -> Any:
        """The value of ``bound`` for a `param`; an error when the domain does not contain it."""
        value = self.symbol(bound.expr, bound.scope)
        if value is FAILED or named.domain is None:
            return value
        domain = domain_of(self, named.domain)
        if domain is FAILED or (
            value in domain
            and not (isinstance(value, bool) and value not in [d for d in domain if isinstance(d, bool)])
        ):
            return value
        text = " ".join(named.domain.expr.span.text.split())
        return self.error(
            "E0206", f"`{named.text}` must be in {text}, got {' '.join(bound.expr.span.text.split())}", bound.expr.span
        )

    def symbol(self, expr: tree.Expr, scope: Scope) -> Any:
        """A value, or the word that a bare name is when it names no value."""
        if isinstance(expr, tree.Ref) and len(expr.parts) == 1:
            name = expr.parts[0].text
            field = self.frame.infos.get(name)
            if self._value_named(name, scope) is None and (
                field is None or bool(field.slot) or ("field", name) in scope.hidden
            ):
                return Word(name)
        return self.evaluator.value(expr, scope)

    def _read_far(self, ref: tree.Ref, scope: Scope) -> Any:
        head = ref.parts[0].text
        if head == "cost" and self.find(head, scope) is None:
            return self.error(
                "E0504", "costs are known only after the model: `cost.` may be asked in a `check`", ref.span
            )
        if head in scope.unit.imports:
            unit = scope.unit.imports[head]
            if unit is None:
                return FAILED
            named = self.in_file(unit, ref.parts[1].text)
            if named is None or len(ref.parts) > 2 or named.what == "drawer":
                return self.not_in_file(unit, ref)
            return self.value_of(named)
        frame = self.start(ref, scope)
        for part in ref.parts[1:-1]:
            if isinstance(frame, Failed):
                return FAILED
            frame = frame.part(part)
        if isinstance(frame, Failed):
            return FAILED
        info = frame.info(ref.parts[-1])
        if info is None:
            return FAILED
        if info.slot:
            return self.error("E0118", f"`{ref.text}` is {info.wanted}, not a value", ref.span)
        return frame.get(info.name)

    def start(self, ref: tree.Ref, scope: Scope) -> Frame | Failed:
        """The frame that the first part of a dotted name means: a drawer of the model, or the drawer in one of its
        slots.
        """
        head = ref.parts[0]
        named = self.find(head.text, scope)
        if named is not None and named.what == "drawer":
            return self.frame_of(named)
        info = self.frame.infos.get(head.text)
        if info is not None and info.slot and ("field", head.text) not in scope.hidden:
            found = self.frame.slot(head.text)
            if isinstance(found, Frame):
                return found
            if isinstance(found, Failed):
                return FAILED
            drawers = self.drawers_of(head.text, scope)
            return self.error(
                "E0118",
                f"no drawer fills `{head.text}` in every layer",
                head.span,
                f"its drawers: {listed(drawers)}" if drawers else None,
            )
        if self.lost(head.text):
            return FAILED
        if named is not None or info is not None:
            return self.error("E0118", f"`{head.text}` is a value: it has no parts", head.span)
        names = (
            *(n for n, v in self.names.items() if v.what == "drawer"),
            *(n for n, i in self.frame.infos.items() if i.slot),
            *scope.unit.imports,
        )
        return self.error("E0118", f"there is nothing called `{head.text}`", head.span, did_you_mean(head.text, names))

    def frame_of(self, named: Named) -> Frame | Failed:
        """The frame of a named drawer, right inside the model."""
        named.used = True

        def make() -> Frame | Failed | None:
            recipe = self.recipes.named(named, named.slot)
            return Frame(self, recipe, self.frame) if isinstance(recipe, Recipe) else recipe

        found = self.once(self._values, named.key, make)
        return found if found is not None else self.error("E0118", f"`{named.text}` is `none`", named.name.span)

    def not_in_file(self, unit: Unit, ref: tree.Ref) -> Failed:
        """FAILED, after saying that another file has no such name."""
        name = ref.parts[1]
        if unit.lost(name.text):
            return FAILED
        if name.text in unit.models:
            return self.error("E0118", f"`{ref.text}` is a model; only `extends` takes a model", ref.span)
        message = (
            f"`{ref.text}` names nothing that can stand here"
            if name.text in unit.names
            else f"`{unit.source.name}` has no `{name.text}`"
        )
        return self.error("E0118", message, ref.span, did_you_mean(name.text, unit.names))

    def _unknown(self, ref: tree.Ref, scope: Scope, info: FieldInfo | None) -> Failed:
        name = ref.parts[0].text
        if self.lost(name):
            return FAILED
        known = (*self.value_names(scope), *(n for n, i in self.frame.infos.items() if not i.slot))
        help = did_you_mean(name, known)
        if ("model", name) in scope.hidden or ("field", name) in scope.hidden:
            return self.error(
                "E0118", f"`{name}` is not defined outside its own definition", ref.span, "a name never means itself"
            )
        if info is not None and info.words and (help is None or did_you_mean(name, map(str, info.words))):
            self.sink.add(unknown_word(info, name, ref.span).diagnostic)
            return FAILED
        found = self.find(name, scope)
        if found is not None:
            return self.error("E0118", f"`{name}` is {article(found.slot)} {found.slot} drawer, not a value", ref.span)
        if help is None and info is not None and name != info.name:
            help = "a field of the same drawer cannot be read; give the value a name with `let`"
        return self.error("E0118", f"there is no `let`, `param` or model field `{name}`", ref.span, help)
