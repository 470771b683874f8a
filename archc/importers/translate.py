"""From a parsed `config.json` to the text of a spec."""

from __future__ import annotations

import pkgutil
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from archc.diagnostics import Diagnostic, Sink, Span
from archc.diagnostics.suggest import closest
from archc.importers import families
from archc.importers.reader import Reader, shown
from archc.importers.spec import Spec, write
from archc.importers.storage import storage


@cache
def model_types() -> tuple[str, ...]:
    """Every `model_type` that can be imported: the files of `archc/importers/families/`."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(families.__path__)))


def convert(
    config: Mapping[str, Any],
    name: str,
    *,
    mtp: bool = False,
    origin: str = "config.json",
    spans: Mapping[str, Span] | None = None,
) -> tuple[str, tuple[Diagnostic, ...]]:
    """The text of a spec with one model ``name``, and what there is to say about the config.

    The text is empty where there is an error: a config is imported whole or not at all. ``origin`` says in the doc
    comment where the config is from, ``spans`` where its keys stand. ``mtp`` asks for multi-token prediction.
    """
    sink = Sink()
    spans = spans or {}
    family = _family(config, spans, sink)
    if family is None:
        return "", sink.in_order()
    reader = Reader(config, family.DEFAULTS, sink, spans)
    spec: Spec = family.spec(reader)
    stored = storage(reader)
    reader.account(getattr(family, "IRRELEVANT", frozenset()), getattr(family, "IGNORED", {}))
    if not mtp:
        spec = replace(spec, mtp=None)
    elif spec.mtp is None:
        message = "the config has no modules for multi-token prediction; `--mtp` changes nothing"
        sink.add(Diagnostic(code="W0603", message=message, severity="warning"))
    _architectures(config, spans, sink)
    if sink.errors:
        return "", sink.in_order()
    source = config.get("_name_or_path") or config.get("name_or_path")
    where = f"{origin} of {source}" if source and isinstance(source, str) and source.isprintable() else origin
    doc = [f"Imported from {where} (transformers model type `{config['model_type']}`)."]
    computed = getattr(family, "COMPUTED", frozenset())
    left_out = [key for key in reader.filled if family.DEFAULTS.get(key) is not None or key in computed]
    notes = [f"Not in the config, so as the class has it: {', '.join(left_out)}."] if left_out else []
    if stored is not None:
        told, precision = stored
        notes.append(told)
        if precision is not None:
            spec = replace(spec, fields=spec.fields | {"precision": precision})
    return write(spec, name, doc, [line for note in notes for line in textwrap.wrap(note, 98)]), sink.in_order()


def _family(config: Mapping[str, Any], spans: Mapping[str, Span], sink: Sink) -> ModuleType | None:
    """The importer of a config's model type."""
    given = config.get("model_type")
    if isinstance(given, str) and given in model_types():
        return import_module(f"{families.__name__}.{given}")
    known = ", ".join(f"`{t}`" for t in model_types())
    message = "the config has no `model_type`" if given is None else f"models of type {shown(given)} cannot be imported"
    near = closest(given, model_types()) if isinstance(given, str) else None
    help = f"supported are {known}" + (f"; did you mean `{near}`?" if near else "")
    sink.add(Diagnostic(code="E0602", message=message, span=spans.get("model_type"), help=help))
    return None


def _architectures(config: Mapping[str, Any], spans: Mapping[str, Span], sink: Sink) -> None:
    """Warns where a checkpoint is of another head than that of a language model."""
    given = config.get("architectures")
    names = given if isinstance(given, list) else [given]
    other = [n for n in names if isinstance(n, str) and not n.endswith("ForCausalLM")]
    if other and len(other) == len(names):
        message = f"the checkpoint is a {other[0]}; its layers are imported, with the head of a language model"
        sink.add(Diagnostic(code="W0604", message=message, span=spans.get("architectures"), severity="warning"))
