"""What is wrong with a drawer once its fields have values: what it lacks, limits, rules between fields."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from archc.diagnostics import Diagnostic, Related, Sink, Span
from archc.resolve.convert import shown
from archc.resolve.scope import Recipe
from archc.resolve.suggest import listed
from archc.resolve.walk import drawers
from archc.schema import Drawer, Model
from archc.schema.describe import FieldInfo, describe

if TYPE_CHECKING:
    from archc.resolve.resolution import Resolution

_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
"""The limits that pydantic checks: in words, and where its report holds the number."""


def missing(r: Resolution, recipe: Recipe, infos: dict[str, FieldInfo], names: list[str]) -> None:
    """Reports required fields that nothing gives, all at once; not those that a broken statement was meant to set."""
    lacking = [name for name in names if name not in recipe.excused]
    if lacking and not recipe.broken:
        docs = "; ".join(f"{n}: {infos[n].doc}" for n in lacking if infos[n].doc)
        r.error("E0201", f"`{recipe.title}` needs {listed(lacking)}", recipe.at, docs or None)


def limits(r: Resolution, recipe: Recipe, error: ValidationError, failed: AbstractSet[str]) -> None:
    """Reports what pydantic found, in our words; not about fields that have ``failed`` already."""
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        if name in failed or detail["type"] in ("default_factory_not_called", "missing"):
            continue
        given = recipe.given_at(name)
        if given is None and _inherits_a_fault(r, recipe, name):
            continue
        help = None
        if given is None:
            value = shown(detail.get("input"))
            help = f"`{name}` was not given: {value} follows from other fields; write `{name} = ...`"
        r.error("E0204", _limit(name, detail), given or recipe.at, help)


def _inherits_a_fault(r: Resolution, recipe: Recipe, name: str) -> bool:
    """Whether a field takes its value from one of the model that has been reported for its limits."""
    info = describe(recipe.cls).get(name)
    source = r.frame.recipe.given_at(info.inherit) if info is not None and info.inherit else None
    return source is not None and any(d.code == "E0204" and d.span == source for d in r.sink.errors)


def rules_hold(r: Resolution, recipe: Recipe, drawer: Drawer) -> bool:
    """Whether the rules between a drawer's fields hold; those that do not are reported at the fields."""
    try:
        problems = list(drawer.problems())
    except Exception as error:  # noqa: BLE001 - a drawer's own code may raise anything
        reason = f"{type(error).__name__}: {error}"
        r.error("E0116", f"the rules of `{recipe.title}` cannot be evaluated: {reason}", recipe.at)
        return False
    for problem in problems:
        places = [span for name in problem.fields if (span := _given_at(recipe, drawer, name)) is not None]
        r.sink.add(
            Diagnostic(
                code="E0210",
                message=problem.message,
                span=places[0] if places else recipe.at,
                help=problem.help,
                context=recipe.statement,
                related=tuple(Related(span=span, message="and here") for span in places[1:]),
            )
        )
    return not problems


@cache
def _of_vocab(cls: type[Drawer]) -> tuple[str, ...]:
    """The fields of a drawer that count tokens of the vocabulary."""
    return tuple(name for name, info in describe(cls).items() if info.inherit == "vocab")


def vocabularies_agree(sink: Sink, model: Model) -> None:
    """Reports drawers whose tables have another number of rows than the model has tokens: ids would miss them."""
    for drawer in drawers(model):
        for name in _of_vocab(type(drawer)) if drawer is not model else ():
            rows = getattr(drawer, name)
            if rows != model.vocab:
                message = f"{name} = {rows:_} of `{drawer.kind}`, but the model has vocab = {model.vocab:_} tokens"
                span = given_in(drawer, name) or drawer.origin.span
                help = f"leave out `{name}`: it follows the model's"
                sink.add(Diagnostic(code="E0210", message=message, span=span, help=help))


def _given_at(recipe: Recipe, drawer: Drawer, name: str) -> Span | None:
    """Where a field has its value from; one of a nested drawer that has none there, where that drawer stands."""
    outer, _, inner = name.partition(".")
    nested = getattr(drawer, outer, None) if inner else None
    return (given_in(nested, inner) if isinstance(nested, Drawer) else None) or recipe.given_at(outer)


def given_in(drawer: Drawer, name: str) -> Span | None:
    """Where a spec gives a field of a drawer, or the nested drawer that the field, named with dots, belongs to."""
    outer, _, inner = name.partition(".")
    nested = getattr(drawer, outer, None) if inner else None
    spans = drawer.origin.fields.get(outer, ())
    return (given_in(nested, inner) if isinstance(nested, Drawer) else None) or (spans[0] if spans else None)


def _limit(name: str, detail: Any) -> str:
    """One sentence for a limit that does not hold."""
    where = f"`{name}`" if len(detail["loc"]) == 1 else f"item {detail['loc'][1]} of `{name}`" if name else "a field"
    got = shown(detail.get("input"))
    if detail["type"] in _LIMITS:
        words, key = _LIMITS[detail["type"]]
        return f"{where} must be {words} {shown(detail['ctx'][key])}, got {got}"
    if detail["type"] in ("value_error", "assertion_error"):
        return f"{where}: {detail['ctx']['error']}"
    return f"{where} cannot be {got}"
