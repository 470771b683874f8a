"""`archc drawers`: what may stand in a spec, with one line on every slot, kind and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli._console import print_all
from archc.cli.options import drawers_option, format_option
from archc.diagnostics.suggest import closest

if TYPE_CHECKING:
    from archc.drawers.catalog import Entry


@click.command()
@click.argument("name", metavar="[SLOT | KIND | SLOT/KIND | model]", required=False)
@drawers_option
@format_option("text", "json")
def command(name: str | None, drawers: tuple[Path, ...], format: str) -> None:
    """List slots and kinds of drawers; of one kind (or of `model`) all fields with type, unit, default and limits."""
    from archc.drawers import DrawerError
    from archc.drawers.catalog import entries, model_entry, slots

    try:
        known = entries(tuple(d.resolve() for d in drawers))
    except DrawerError as error:
        raise click.UsageError(f"the drawer file {error.path} cannot be used: {error.reason}") from error
    chosen = _chosen(name, known, model_entry(), slots())
    if format == "json":
        click.echo(json.dumps([e.as_dict() for e in chosen], indent=2, ensure_ascii=False))
    elif name is None or name in slots():
        _print(_overview(chosen, {name: slots()[name]} if name else slots()))
    else:
        for entry in chosen:
            _print(_fields(entry))


def _chosen(name: str | None, known: tuple[Entry, ...], model: Entry, slots: dict[str, str]) -> tuple[Entry, ...]:
    """The entries that ``name`` means; a usage error for one that means none."""
    if name is None:
        return known
    if name == model.slot:
        return (model,)
    if name in slots:
        return tuple(e for e in known if e.slot == name)
    found = tuple(e for e in known if name in (e.kind, e.name))
    if not found:
        near = closest(name, ("model", *slots, *(e.kind for e in known), *(e.name for e in known)))
        raise click.UsageError(f"there is no slot or kind `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    return found


def _overview(chosen: tuple[Entry, ...], slots: dict[str, str]) -> Any:
    """A table of slots and their kinds."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("slot", "kind", "what it is"):
        table.add_column(title, no_wrap=title != "what it is")
    for slot, doc in slots.items():
        table.add_row(f"[bold]{slot}[/]", "", f"[dim]{_plain(doc)}[/]")
        for entry in chosen:
            if entry.slot == slot:
                table.add_row("", entry.kind, _plain(entry.doc))
    return table


def _fields(entry: Entry) -> Any:
    """A table of the fields of a drawer."""
    from rich.table import Table

    from archc.drawers.catalog import default_text

    table = Table(
        box=None, header_style="bold", pad_edge=False, title=f"{entry.name}: {_plain(entry.doc)}", title_justify="left"
    )
    for title in ("field", "type", "unit", "default", "limits", "what it is"):
        table.add_column(title, no_wrap=title in ("field", "unit"))
    for info in entry.fields:
        default = "[italic]required[/]" if info.required else _plain(default_text(info))
        table.add_row(info.name, _plain(info.type_text), info.unit, default, info.domain_text, _plain(info.doc))
    return table


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    from rich.markup import escape

    return escape(text)


def _print(table: Any) -> None:
    print_all(table, width=160)
