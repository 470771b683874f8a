"""From names to a model: everything a model needs is evaluated, so that one run reports all errors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archc.diagnostics import Sink
from archc.resolve import lints
from archc.resolve.checks import Check, check_now, in_words
from archc.resolve.faults import vocabularies_agree
from archc.resolve.frames import Frame
from archc.resolve.merge import Merger, chain
from archc.resolve.overrides import Overrides
from archc.resolve.project import Unit
from archc.resolve.resolution import Resolution
from archc.resolve.schedules import MAX_LAYERS, Column, Schedules
from archc.resolve.scope import FAILED, Failed, Named, Scope
from archc.resolve.sweeps import sweeps
from archc.schema import LAYER_SLOTS, Drawer, Hardware, LayerSlots, Model, ModelFields, stand
from archc.syntax import tree


def resolved(
    sink: Sink, unit: Unit, section: tree.Section, folders: tuple[Path, ...], overrides: Overrides | None = None
) -> tuple[Model | None, Resolution]:
    """The model of a `model` section, None when there are errors; with the resolution it came from."""
    before = len(sink.errors)
    r = Resolution(sink, unit, folders)
    recipe = r.frame.recipe
    recipe.label, recipe.at, recipe.statement = section.labels[0].span.text, section.labels[0].span, section.span
    merger = Merger(r)
    for owner, part in chain(r, unit, section):
        merger.body(owner, part.body)
    if overrides is not None:
        overrides.apply(r, merger)
    return modelled(r, section, before), r


def loose_names(sink: Sink, unit: Unit, folders: tuple[Path, ...]) -> Resolution:
    """A resolution in which what a file declares outside its models has been evaluated, as far as it does not depend on
    a model.
    """
    r = Resolution(sink, unit, folders)
    for name in unit.names:
        named = r.in_file(unit, name)
        assert named is not None
        if named.what != "drawer" and _plain(named):
            r.value_of(named)
    return r


def modelled(r: Resolution, section: tree.Section, before: int, *, variant: bool = False) -> Model | None:
    """The model, None when there are more than the ``before`` errors of earlier models.

    A ``variant`` of a sweep has the sweeps and the warnings of the model it is a variant of: they are left out.
    """
    for named in list(r.names.values()):
        if named.what == "param":
            used = named.used
            r.value_of(named)
            named.used = used
    layers = r.frame.get("layers")
    schedules = Schedules(r, layers)
    r.frame.lacking = schedules.open_slots()
    fields = r.frame.build()
    if layers is not FAILED and layers > MAX_LAYERS:
        span = r.frame.recipe.fields["layers"].history[0]
        r.error("E0204", f"`layers` must be at most {MAX_LAYERS}, got {layers:_}", span)
    columns = {slot: schedules.slot(slot) for slot in LAYER_SLOTS}
    scheduled = _scheduled(columns)
    machines = _build_drawers(r)
    schedule = _layers(columns)
    for named in r.names.values():
        if named.what == "let" and not named.used and _plain(named):
            r.value_of(named)
            named.used = False
    checks = tuple(Check(statement, scope, r) for statement, scope in r.checks)
    for check in checks:
        check_now(check, r.sink)
    found = () if variant else sweeps(r, r.sweeps + _file_sweeps(r))
    if fields is FAILED or schedule is None or len(r.sink.errors) > before:
        return None
    if not variant and not r.frame.recipe.broken:
        lints.unused(r.sink, r.names.values(), scheduled, r.unit)
    model = Model.model_construct(
        **{name: getattr(fields, name) for name in ModelFields.model_fields},
        name=r.frame.recipe.label,
        doc=section.doc,
        schedule=schedule,
        params=tuple((n.text, in_words(r.param_value(n))) for n in _params(r)),
    )
    model.placed(r.frame.recipe.label, fields.origin)
    vocabularies_agree(r.sink, model)
    if not variant:
        lints.doubtful(r.sink, model)
    return model.completed(checks=checks, sweeps=found, machines=machines, spec_hash=spec_hash)


def _params(r: Resolution) -> list[Named]:
    """The params in force: those of the model, then those of its file."""
    own = [n for n in r.names.values() if n.what == "param"]
    names = [n for n, s in r.unit.names.items() if isinstance(s, tree.Param) and n not in r.names]
    return own + [named for n in names if (named := r.in_file(r.unit, n)) is not None]


def _file_sweeps(r: Resolution) -> list[tuple[tree.Section, Scope]]:
    """The sweeps of the file that are about this model: all if it is the only one, else those whose params it has."""
    scope = Scope(r.unit)

    def about(section: tree.Section) -> bool:
        names = [s.path.text for s in section.body.statements if isinstance(s, tree.Assign)]
        names += [s.param.text for s in section.body.statements if isinstance(s, tree.Solve)]
        return all((found := r.find(n, scope)) is not None and found.what == "param" for n in names)

    alone = len(r.unit.models) == 1
    return [(s, scope) for s in r.unit.sweeps if alone or about(s)]


def _plain(named: Named) -> bool:
    """Whether a name holds a value for certain (a bare name or an amendment may be a drawer or a word)."""
    base = named.definition.base
    return base is not None and isinstance(
        base.expr, tree.Number | tree.String | tree.Constant | tree.Unary | tree.Binary
    )


def _scheduled(columns: Mapping[str, Column]) -> frozenset[str]:
    return frozenset(
        f.recipe.label
        for column in columns.values()
        if not isinstance(column, Failed)
        for f in column
        if isinstance(f, Frame)
    )


def _build_drawers(r: Resolution) -> dict[str, Hardware]:
    """Makes every named drawer, used or not, so that all errors are found; returns the hardware among them, of the
    model and of its file, which `archc cost` may ask for by name.
    """
    machines: dict[str, Hardware] = {}
    beside = (n for n, s in r.unit.names.items() if isinstance(s, tree.Declare) and s.slot.text == "hardware")
    found = [named for name in beside if name not in r.names and (named := r.in_file(r.unit, name)) is not None]
    for named in [*found, *(n for n in r.names.values() if n.slot == "hardware")]:
        frame = r.frame_of(named)
        built = frame.build() if isinstance(frame, Frame) else None
        if isinstance(built, Hardware):
            machines[named.text] = built
    for named in list(r.names.values()):
        if named.what == "drawer" and named.slot != "hardware":
            used = named.used
            recipe = r.recipes.named(named, named.slot)
            if named.slot in LAYER_SLOTS and recipe is not None:
                frame = r.frame_of(named)
                if isinstance(frame, Frame):
                    frame.build()
            named.used = used
    return machines


def _layers(columns: Mapping[str, Column]) -> tuple[LayerSlots, ...] | None:
    """The drawers of each layer; layers of equal drawers share one object. None when something failed."""
    drawers: dict[str, list[Any]] = {}
    for slot, column in columns.items():
        if isinstance(column, Failed):
            continue
        built: list[Any] = [f.build() if isinstance(f, Frame) else f for f in column]
        if not any(b is FAILED for b in built):
            drawers[slot] = stand(built) if slot == "memory" else built
    if len(drawers) < len(columns):
        return None
    known: dict[tuple[int, ...], LayerSlots] = {}
    layers: list[LayerSlots] = []
    for parts in zip(*drawers.values(), strict=True):
        key = tuple(map(id, parts))
        if key not in known:
            # frames have made sure of the parts
            known[key] = LayerSlots.model_construct(**dict(zip(drawers, parts, strict=True)))
        layers.append(known[key])
    return tuple(layers)


def spec_hash(model: Model) -> str:
    """The first 16 hex digits of the SHA-256 of a model's name and resolved values: comments, order and spelling of the
    spec do not count.
    """
    import json

    # layers of equal drawers share one object: each is written once
    distinct = list({id(layer): layer for layer in model.schedule}.values())
    place = {id(layer): i for i, layer in enumerate(distinct)}
    data = {
        "name": model.name,
        "fields": {name: _data(getattr(model, name)) for name in ModelFields.model_fields},
        "layers": [{slot: _data(getattr(layer, slot)) for slot in LAYER_SLOTS} for layer in distinct],
        "schedule": [place[id(layer)] for layer in model.schedule],
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _data(value: Any) -> Any:
    if isinstance(value, Drawer):
        fields = {name: _data(getattr(value, name)) for name in type(value).model_fields}
        return {"slot": value.slot, "kind": value.kind, "label": value.label, "fields": fields}
    return list(map(_data, value)) if isinstance(value, (list, tuple)) else value
