"""Which drawer each layer uses: schedules are values, checked exactly against the number of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from archc.diagnostics import Diagnostic, Related, Span
from archc.resolve.frames import Frame
from archc.resolve.recipes import Expanded
from archc.resolve.resolution import Resolution
from archc.resolve.scope import FAILED, Bound, Failed, Recipe, Scope
from archc.resolve.suggest import listed
from archc.schema import LAYER_SLOTS
from archc.syntax import tree

MAX_LAYERS = 100_000
"""More layers than any model has; bounds what a schedule may expand to."""

Entry = Frame | Failed | None
"""What a layer holds in one slot."""
Column = Sequence[Entry] | Failed
"""What all layers hold in one slot."""


class Schedules:
    """Expands the schedules of one resolution."""

    def __init__(self, r: Resolution, layers: int | Failed) -> None:
        self.r = r
        self.layers = layers if not isinstance(layers, Failed) and 0 < layers <= MAX_LAYERS else FAILED

    def slot(self, slot: str) -> Column:
        """The drawer of each layer in a slot; FAILED after an error."""

        def make() -> Column:
            self.r.frame.get("layers")  # read again, so that it counts as read here
            return self._slot(slot)

        return self.r.once(self.r.columns, slot, make)

    def _slot(self, slot: str) -> Column:
        r = self.r
        info = r.frame.infos[slot]
        bound = r.schedule.get(slot)
        if bound is not None:
            return self._scheduled(slot, bound)
        if slot in r.frame.recipe.fields:
            frame = r.frame.slot(slot)
            assert not isinstance(frame, list)
            return FAILED if isinstance(frame, Failed) or self.layers is FAILED else [frame] * self.layers
        drawers = [n for n in r.names.values() if n.what == "drawer" and n.slot == slot]
        if len(drawers) == 1:
            recipe = r.recipes.named(drawers[0], slot)
            frame = r.frame_of(drawers[0]) if recipe is not None else None
            return FAILED if isinstance(frame, Failed) or self.layers is FAILED else [frame] * self.layers
        if drawers:
            if not r.frame.recipe.broken and slot not in r.frame.recipe.excused:
                names = listed([d.text for d in drawers])
                r.error(
                    "E0309",
                    f"{slot} has {len(drawers)} drawers and no schedule: {names}",
                    drawers[0].name.span,
                    f"add `schedule {{ {slot} = [...] }}`",
                )
            return FAILED
        if not info.has_default:
            return FAILED
        return FAILED if self.layers is FAILED else [None] * self.layers

    def _scheduled(self, slot: str, bound: Bound) -> Column:
        expr = bound.expr
        items = expr.items if isinstance(expr, tree.List) else (expr,)
        placements = [i for i in items if isinstance(i, tree.Placed)]
        if placements and len(placements) < len(items):
            other = next(i for i in items if not isinstance(i, tree.Placed))
            return self._error("E0302", "a schedule is a sequence or placements (`at`), not both", other.span)
        if isinstance(expr, tree.Ref | tree.Amend | tree.Constant) and not (
            isinstance(expr, tree.Constant) and expr.value is not None
        ):
            entry = self._entry(expr, bound.scope, slot)
            return FAILED if isinstance(entry, Failed) or self.layers is FAILED else [entry] * self.layers
        if placements:
            return self._placed(slot, bound, placements)
        return self._sequence(slot, bound, items)

    def open_slots(self) -> tuple[str, ...]:
        """The slots that every layer needs and that the model says nothing about."""
        r = self.r
        drawers = {n.slot for n in r.names.values() if n.what == "drawer"}
        filled = drawers | r.schedule.keys() | r.frame.recipe.fields.keys()
        return tuple(s for s in LAYER_SLOTS if s not in filled and not r.frame.infos[s].has_default)

    # --- sequences -------------------------------------------------------------------------------
    def _sequence(self, slot: str, bound: Bound, items: tuple[tree.Expr, ...]) -> Column:
        rests = [i for i in items if _is_rest(i)]
        if len(rests) > 1:
            return self._error("E0308", "a schedule has one `rest`", rests[1].span)
        counts = [self._length(_repeated(i) if _is_rest(i) else i, bound.scope) for i in items]
        # names are looked up even when a count is wrong, so that one run reports both
        for item in items:
            self._names(_repeated(item) if _is_rest(item) else item, bound.scope, slot)
        if any(c is FAILED for c in counts) or self.layers is FAILED:
            return FAILED
        layers: int = self.layers
        total = sum(c for c, i in zip(counts, items, strict=True) if not _is_rest(i))
        times = 0
        if rests:
            size = counts[items.index(rests[0])]
            left = layers - total
            if left < 0:
                return self._length_error(slot, bound, total, layers)
            if size == 0 or left % size:
                return self._error(
                    "E0308",
                    f"{left} layers are left for `rest`, no multiple of the {size} in `{_brief(_repeated(rests[0]))}`",
                    rests[0].span,
                )
            times = left // size
        elif total != layers:
            return self._length_error(slot, bound, total, layers)
        entries: list[Entry] = []
        for item in items:
            if _is_rest(item):
                entries += list(self._expand(_repeated(item), bound.scope, slot)) * times
            else:
                entries += self._expand(item, bound.scope, slot)
        return FAILED if any(isinstance(e, Failed) for e in entries) else entries

    def _length_error(self, slot: str, bound: Bound, total: int, layers: int) -> Failed:
        if total < layers:
            message, help = (
                f"{slot} covers {total} of {layers} layers",
                f"{layers - total} more are needed; `NAME * rest` fills what is left",
            )
        else:
            message, help = (
                f"{slot} covers {total:_} layers, but the model has {layers}",
                f"{total - layers:_} too many",
            )
        related = tuple(
            Related(span=d.history[0], message="layers")
            for d in (self.r.frame.recipe.fields.get("layers"),)
            if d and d.history
        )
        self.r.sink.add(Diagnostic(code="E0301", message=message, span=bound.expr.span, help=help, related=related))
        return FAILED

    def _length(self, item: tree.Expr, scope: Scope) -> Any:
        """How many layers an item of a sequence covers."""
        match item:
            case tree.Ref() | tree.Amend() | tree.Constant(value=None):
                return 1
            case tree.Group(items=items):
                sizes = [self._length(i, scope) for i in items]
                return FAILED if any(s is FAILED for s in sizes) else sum(sizes)
            case tree.Binary(op="*", left=left, right=right):
                if _is_rest(item):
                    return self._error("E0308", "`rest` stands directly in the list of a schedule", right.span)
                if isinstance(left, tree.Number):
                    return self._error(
                        "E0307",
                        "a repeat is written `NAME * COUNT`",
                        item.span,
                        f"write `{_brief(right)} * {_brief(left)}`",
                    )
                size = self._length(left, scope)
                times = self.r.evaluator.whole(right, scope)
                if size is FAILED or times is FAILED:
                    return FAILED
                if times < 0:
                    return self._error("E0311", f"a repeat count is at least 0, not {times}", right.span)
                return size * times
            case tree.Binary(op=op):
                return self._error(
                    "E0307",
                    f"`{op}` has no meaning between drawers",
                    item.span,
                    "a count is written in parentheses: `NAME * (n - 1)`",
                )
            case tree.Placed():
                return self._error("E0302", "`at` stands directly in the list of a schedule", item.span)
            case tree.List():
                return self._error(
                    "E0307", "a list inside a schedule", item.span, "group with parentheses: `(a, b) * 2`"
                )
        return self._error("E0307", f"a schedule holds names of drawers, not `{_brief(item)}`", item.span)

    def _names(self, item: tree.Expr, scope: Scope, slot: str) -> None:
        """Looks up the drawers of an item."""
        match item:
            case tree.Ref() | tree.Amend():
                self._entry(item, scope, slot)
            case tree.Group(items=items):
                for inner in items:
                    self._names(inner, scope, slot)
            case tree.Binary(op="*", left=left):
                self._names(left, scope, slot)

    def _expand(self, item: tree.Expr, scope: Scope, slot: str) -> Iterator[Entry]:
        match item:
            case tree.Group(items=items):
                for inner in items:
                    yield from self._expand(inner, scope, slot)
            case tree.Binary(left=left, right=right):
                once = list(self._expand(left, scope, slot))
                yield from once * self.r.evaluator.whole(right, scope)
            case _:
                yield self._entry(item, scope, slot)

    def _entry(self, expr: tree.Expr, scope: Scope, slot: str) -> Entry:
        """The drawer of an item: one frame for every use of a named drawer, one for each anonymous drawer."""
        if isinstance(expr, tree.Ref) and len(expr.parts) == 1:
            named = self.r.drawer(expr.parts[0].text, slot, scope)
            if named is not None:
                recipe = self.r.recipes.named(named, slot)
                return self.r.frame_of(named) if isinstance(recipe, Recipe) else recipe

        def make() -> Entry:
            found: Expanded = self.r.recipes.expand(expr, scope, slot)
            return Frame(self.r, found, self.r.frame) if isinstance(found, Recipe) else found

        return self.r.once(self.r.entries, id(expr), make)

    # --- placements ------------------------------------------------------------------------------
    def _placed(self, slot: str, bound: Bound, placements: list[tree.Placed]) -> Column:
        holders: dict[int, tuple[Entry, Span]] = {}
        sound = True
        for placement in placements:
            entry = self._entry(placement.item, bound.scope, slot)
            sound = sound and not isinstance(entry, Failed)
            where = placement.where.items if isinstance(placement.where, tree.List) else (placement.where,)
            for place in where:
                indices = self._indices(place, bound.scope)
                sound = sound and indices is not FAILED
                for index in () if indices is FAILED else indices:
                    if index in holders:
                        first = Related(span=holders[index][1], message="first placed here")
                        self.r.sink.add(
                            Diagnostic(
                                code="E0303",
                                message=f"layer {index} of {slot} is placed twice",
                                span=place.span,
                                related=(first,),
                            )
                        )
                        sound = False
                        break
                    holders[index] = (entry, place.span)
        if not sound or self.layers is FAILED:
            return FAILED
        gaps = [i for i in range(self.layers) if i not in holders]
        if gaps and not self.r.frame.infos[slot].has_default:
            return self._error(
                "E0304",
                f"no {slot} drawer is placed at {_layers(gaps)}",
                bound.expr.span,
                f"place one there, or `none at {_spans(gaps)}`",
            )
        return [holders[i][0] if i in holders else None for i in range(self.layers)]

    def _indices(self, place: tree.Expr, scope: Scope) -> Any:
        """The layers that a place names (a range)."""
        if self.layers is FAILED:
            return FAILED
        last = self.layers - 1
        if isinstance(place, tree.Range):
            found = self.r.evaluator.range(place, scope, last=last)
        else:
            index = self.r.evaluator.whole(place, scope)
            found = FAILED if index is FAILED else range(index, index + 1)
        if found is FAILED:
            return FAILED
        for index in (found[0], found[-1]):
            if not 0 <= index <= last:
                return self._error(
                    "E0305", f"there is no layer {index}: the model has {self.layers}, 0 to {last}", place.span
                )
        return found

    def _error(self, code: str, message: str, span: Span, help: str | None = None) -> Failed:
        return self.r.error(code, message, span, help)


def _is_rest(item: tree.Expr) -> bool:
    return (
        isinstance(item, tree.Binary)
        and item.op == "*"
        and isinstance(item.right, tree.Ref)
        and item.right.text == "rest"
    )


def _repeated(item: tree.Expr) -> tree.Expr:
    assert isinstance(item, tree.Binary)
    return item.left


def _brief(expr: tree.Expr) -> str:
    text = " ".join(expr.span.text.split())
    return text if len(text) <= 30 else text[:27] + "..."


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for i in indices:
        if runs and runs[-1][1] == i - 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def _layers(indices: list[int]) -> str:
    """The layers as a person lists them: `layer 3`, `layers 3 to 5 and 9`."""
    runs = [str(a) if a == b else f"{a} to {b}" for a, b in _runs(indices)]
    text = ", ".join(runs[:-1]) + " and " + runs[-1] if len(runs) > 1 else runs[0]
    return f"layer {text}" if len(indices) == 1 else f"layers {text}"


def _spans(indices: list[int]) -> str:
    """The layers as a spec writes them: `3`, `3..5`, `[3..5, 9]`."""
    runs = [str(a) if a == b else f"{a}..{b}" for a, b in _runs(indices)]
    return runs[0] if len(runs) == 1 else f"[{', '.join(runs)}]"
