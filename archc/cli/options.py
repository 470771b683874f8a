"""What commands share: arguments and options as decorators, and how they report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from archc.diagnostics import Diagnostic
from archc.diagnostics.render import FORMATS, Format, render

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


def pairs(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """`name=value` options as a dict; the last of equal names counts."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equal, value = (part.strip() for part in text.partition("="))
        if not (name and equal and value):
            raise click.BadParameter(f"`{text}` is not of the form name=value", ctx, option)
        pairs[name] = value
    return pairs


def _note_format(ctx: click.Context, _: click.Parameter, value: str) -> str:
    # The group shows the diagnostics of an `ArchError`, after the command's own parameters are gone.
    ctx.meta["archc.format"] = value if value in FORMATS else "text"
    return value


spec_argument = click.argument("spec", metavar="SPEC")
"""One spec: a path, or the name of a spec in the library. Passed as ``spec``."""

specs_argument = click.argument("specs", metavar="SPEC...", nargs=-1, required=True)
"""One spec or more. Passed as ``specs``."""

model_option = click.option("-m", "--model", metavar="NAME", help="The model of the file; by default its first.")
"""Passed as ``model``: str or None."""

param_option = click.option(
    "-P", "--param", "params", metavar="NAME=VALUE", multiple=True, callback=pairs, help="Set a declared param."
)
"""Passed as ``params``: dict of strings, read as source by `archc.resolve.load`."""

set_option = click.option(
    "--set", "sets", metavar="PATH=VALUE", multiple=True, callback=pairs, help="Amend any value of the spec."
)
"""Passed as ``sets``: dict of strings, read as source by `archc.resolve.load`."""

drawers_option = click.option(
    "--drawers",
    "drawers",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with further drawers.",
)
"""Passed as ``drawers``: tuple of paths."""

strict_option = click.option("--strict", is_flag=True, help="Warnings count as errors.")
"""Passed as ``strict``."""


FUSE = "modules"
"""The default of `--fuse`: that of the Python interface (`archc.api.FUSE`)."""


def fuse_option(default: str = FUSE) -> Decorator[Any]:
    """`--fuse`, passed as ``fuse``."""
    return click.option(
        "--fuse",
        type=click.Choice(["none", "modules", "layers"]),
        default=default,
        show_default=True,
        help="Chains of row-local ops as functions with kernels of their own: none, within modules, or across layers, "
        "which then begin by leaving the one before.",
    )


def format_option(*formats: str) -> Decorator[Any]:
    """`--format`, one of ``formats`` (by default those of diagnostics), the first unless set; passed as ``format``."""
    choices = formats or FORMATS
    return click.option(
        "--format",
        "format",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        callback=_note_format,
        help="How to write the result.",
    )


def spec_options(command: Command) -> Command:
    """All options of a command that takes one spec: ``model``, ``params``, ``sets``, ``drawers``."""
    for decorate in (drawers_option, set_option, param_option, model_option):
        command = decorate(command)
    return command


def colour() -> bool:
    """Whether standard output shows colour: it is a terminal, and neither NO_COLOR nor TERM=dumb says otherwise."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show(diagnostics: Sequence[Diagnostic], format: Format = "text") -> None:
    """Writes diagnostics to standard output."""
    width = None
    if format == "text" and sys.stdout.isatty():
        import shutil

        width = max(shutil.get_terminal_size().columns, 60)
    text = render(diagnostics, format, colour=colour(), width=width)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(
        text.encode(encoding, "backslashreplace").decode(encoding), nl=False, color=None if format == "text" else False
    )


def failed(diagnostics: Sequence[Diagnostic], *, strict: bool = False) -> bool:
    """Whether these make a command exit with 1: an error, or with ``strict`` a warning."""
    return any(d.severity == "error" or (strict and d.severity == "warning") for d in diagnostics)


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`, or `no findings`."""
    counts = {kind: sum(d.severity == kind for d in diagnostics) for kind in ("error", "warning", "note")}
    return ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts.items() if n) or "no findings"
