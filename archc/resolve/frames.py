"""From recipes to drawers: a frame gives every field its value, from the spec, from the enclosing drawers, or from its
default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from archc.diagnostics import Span
from archc.resolve import faults
from archc.resolve.lints import decimal_in
from archc.resolve.recipes import Expanded
from archc.resolve.scope import FAILED, Definition, Failed, Recipe
from archc.resolve.suggest import did_you_mean
from archc.schema import Drawer, Origin
from archc.schema.describe import FieldInfo, describe
from archc.schema.making import make
from archc.syntax import tree

if TYPE_CHECKING:
    from archc.resolve.resolution import Resolution

_ABSENT = object()
"""The value of a field that nothing gives; `build` reports it when it is required."""


class Frame:
    """A recipe in its place: ``outer`` is the frame of the drawer (or model) around it. Values are made once, when
    first asked for.
    """

    __slots__ = ("_parts", "_values", "infos", "lacking", "outer", "r", "recipe")

    def __init__(
        self, r: Resolution, recipe: Recipe, outer: Frame | None, infos: dict[str, FieldInfo] | None = None
    ) -> None:
        self.r, self.recipe, self.outer = r, recipe, outer
        self.infos = infos if infos is not None else describe(recipe.cls)
        self.lacking: tuple[str, ...] = ()
        """Slots of layers that a model leaves open; reported with its missing fields."""
        self._values: dict[str, Any] = {}
        self._parts: dict[str, Any] = {}

    def given(self, name: str) -> bool:
        """Whether a spec says something about a field."""
        return name in self.recipe.fields

    def get(self, name: str) -> Any:
        """The value of a field, FAILED when it has none (reported here or by `build`)."""
        value = self.value(name)
        return FAILED if value is _ABSENT else value

    def info(self, name: tree.Name) -> FieldInfo | None:
        """What a field is; an error when there is no such field."""
        found = self.infos.get(name.text)
        if found is None:
            help = did_you_mean(name.text, self.infos)
            self.r.error("E0203", f"`{self.recipe.title}` has no field `{name.text}`", name.span, help)
        return found

    def part(self, name: tree.Name) -> Frame | Failed:
        """The frame of the drawer in a slot, for a dotted name; an error when there is none."""
        info = self.info(name)
        if info is None:
            return FAILED
        if not info.slot:
            return self.r.error("E0118", f"`{name.text}` is {info.wanted}: it has no parts", name.span)
        found = self.slot(info.name)
        if found is None:
            return self.r.error("E0118", f"`{name.text}` is switched off here", name.span)
        return found if isinstance(found, Frame) else FAILED

    def slot(self, name: str) -> Frame | list[Frame | None] | Failed | None:
        """The frame in a slot: None when it is switched off, a list for a list of drawers."""

        def make() -> Frame | list[Frame | None] | Failed | None:
            with self.r.entered((str(id(self)), name), name, self._span(name)) as open_:
                return self._slot(self.infos[name]) if open_ else FAILED

        return self.r.once(self._parts, name, make)

    def recipe_of(self, name: str) -> Expanded:
        """The recipe of the drawer in a slot."""
        found = self.slot(name)
        return (
            found.recipe
            if isinstance(found, Frame)
            else found
            if isinstance(found, Failed) or found is None
            else FAILED
        )

    def _slot(self, info: FieldInfo) -> Frame | list[Frame | None] | Failed | None:
        definition = self.recipe.fields.get(info.name, Definition())
        if info.item is not None:
            return self._slots(info, definition)
        if definition.base is not None:
            found = self.r.recipes.expand(definition.base.expr, definition.base.scope, info.slot)
        elif info.inherit and (holder := self._holder(info.inherit)) is not None:
            if not definition.amendments:
                return holder.slot(info.inherit)
            found = holder.recipe_of(info.inherit)
        elif info.kind:
            found = self.r.recipes.expand(_reference(info.kind, self._span(info.name)), self.r.scope, info.slot)
        else:
            found = None
        if isinstance(found, Failed):
            return FAILED
        if definition.amendments:
            if found is None:
                span = definition.amendments[0].statement
                return self.r.error(
                    "E0117", f"there is no `{info.name}` to amend", span, f"write `{info.name} = KIND {{ ... }}`"
                )
            found = found.copy(found.at)
            self.r.recipes.amend_all(found, definition.amendments)
        if found is None:
            if definition.base is not None and not info.optional:
                return self.r.error(
                    "E0202", f"`{info.name}` is {info.wanted}, it cannot be `none`", definition.base.expr.span
                )
            return None
        found.statement = found.statement or (definition.base.statement if definition.base else None)
        return Frame(self.r, found, self)

    def _slots(self, info: FieldInfo, definition: Definition) -> list[Frame | None] | Failed | None:
        assert info.item is not None
        if definition.base is None:
            return None
        expr = definition.base.expr
        if not isinstance(expr, tree.List):
            return self.r.error("E0202", f"`{info.name}` is {info.wanted}", expr.span, "write `[ ... ]`")
        frames: list[Frame | None] = []
        failed = False
        for item in expr.items:
            found = self.r.recipes.expand(item, definition.base.scope, info.item.slot)
            failed = failed or isinstance(found, Failed)
            frames.append(Frame(self.r, found, self) if isinstance(found, Recipe) else None)
        return FAILED if failed else frames

    def _holder(self, name: str) -> Frame | None:
        """The nearest enclosing frame that has a field called ``name``."""
        frame = self.outer
        while frame is not None:
            if name in frame.infos:
                return frame
            frame = frame.outer
        return None

    def value(self, name: str) -> Any:
        """The value of a field, `_ABSENT` when nothing gives it one."""

        def make() -> Any:
            info = self.infos[name]
            if info.slot or (info.item is not None and info.item.slot):
                return self._drawer(info)
            with self.r.entered((str(id(self)), name), name, self._span(name)) as open_:
                return self._scalar(info) if open_ else FAILED

        return self.r.once(self._values, name, make)

    def _drawer(self, info: FieldInfo) -> Any:
        found = self.slot(info.name)
        if isinstance(found, Failed):
            return FAILED
        if isinstance(found, list):
            built = [f.build() if f is not None else None for f in found]
            return FAILED if any(b is FAILED for b in built) else built
        if found is None:
            filled = self.given(info.name) or info.optional
            return (
                (None if info.optional else FAILED)
                if filled
                else (info.default if info.has_default and not info.computed else _ABSENT)
            )
        return found.build()

    def _scalar(self, info: FieldInfo) -> Any:
        definition = self.recipe.fields.get(info.name)
        if definition is not None and definition.amendments:
            return self.r.error(
                "E0211", f"`{info.name}` is a value: it has no parts to amend", definition.amendments[0].statement
            )
        if definition is not None and definition.base is not None:
            return self.r.converted(definition.base, info)
        if info.inherit and (holder := self._holder(info.inherit)) is not None:
            value = holder.value(info.inherit)
            if value is _ABSENT and not info.has_default:
                return FAILED  # the holder reports that it lacks the field
            if value is not _ABSENT and (value is not None or info.optional):
                return value
            if not info.has_default:
                return _ABSENT
        if info.computed:
            return self._computed(info)
        return info.default if info.has_default else _ABSENT

    def _computed(self, info: FieldInfo) -> Any:
        field = self.recipe.cls.model_fields[info.name]
        try:
            return field.get_default(call_default_factory=True, validated_data=_Earlier(self))  # type: ignore[arg-type]
        except _Lacking:
            return FAILED
        except Exception as error:  # noqa: BLE001 - a drawer's own code may raise anything
            return self._no_default(info.name, error)

    def _no_default(self, name: str, error: Exception) -> Failed:
        reason = "division by zero" if isinstance(error, ZeroDivisionError) else f"{type(error).__name__}: {error}"
        which = f"the default of `{name}`" if name else "a default"
        help = f"write `{name} = ...`" if name else "set the fields it follows from, or the field itself"
        return self.r.error(
            "E0215", f"{which} of `{self.recipe.title}` cannot be computed: {reason}", self.recipe.at, help
        )

    def build(self) -> Any:
        """The drawer, or FAILED: every field's error and every limit is reported."""
        return self.r.once(self._values, "", self._build)

    def _build(self) -> Drawer | Failed:
        decimal_in(self.r.sink, self.recipe.fields)
        values: dict[str, Any] = {}
        failed: set[str] = set()
        missing: list[str] = []
        for name, info in self.infos.items():
            if name not in self.recipe.cls.model_fields:
                continue
            value = (
                self.value(name) if self.given(name) or info.inherit or info.kind or not info.has_default else _ABSENT
            )
            if value is FAILED:
                failed.add(name)
            elif value is not _ABSENT:
                values[name] = value
            elif not info.has_default:
                missing.append(name)
                failed.add(name)
        faults.missing(self.r, self.recipe, self.infos, [*missing, *self.lacking])
        try:
            drawer = make(self.recipe.cls, values)
        except ValidationError as error:
            faults.limits(self.r, self.recipe, error, failed)
            return FAILED
        except Exception as error:  # noqa: BLE001 - a drawer's own code may raise anything
            return self._no_default("", error)
        if failed:
            return FAILED
        origin = Origin(
            span=self.recipe.statement or self.recipe.at,
            fields={n: d.history for n, d in self.recipe.fields.items() if d.history},
        )
        drawer.placed(self.recipe.label or self.recipe.cls.kind, origin)
        return drawer if faults.rules_hold(self.r, self.recipe, drawer) else FAILED

    def _span(self, name: str) -> Span | None:
        return self.recipe.given_at(name) or self.recipe.at


class _Lacking(Exception):
    """A default needs a field that has no value."""


class _Earlier(Mapping[str, Any]):
    """The fields before a computed default, evaluated when it asks for them."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __getitem__(self, name: str) -> Any:
        if name not in self._frame.infos:
            raise KeyError(name)
        value = self._frame.get(name)
        if value is FAILED:
            raise _Lacking(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame.infos)

    def __len__(self) -> int:
        return len(self._frame.infos)


def _reference(kind: str, span: Span | None) -> tree.Ref:
    """A reference to a kind, as if a spec had written it."""
    place: Any = span
    return tree.Ref(span=place, parts=(tree.Name(span=place, text=kind),))
