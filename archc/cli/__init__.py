"""The command line. A command is a file of this folder with a click command named ``command``; nothing lists them.

A file `import_.py` is the command `import`. Exit codes: 0 clean, 1 findings, 2 wrong usage or an internal error.
"""

from __future__ import annotations

import gc
import os
import pkgutil
import sys
from importlib import import_module
from typing import Any

import click

from archc.diagnostics.diagnostic import ArchError
from archc.diagnostics.suggest import closest

_HELPERS = frozenset({"options"})
_ISSUES = "please report it, with the output of ARCHC_DEBUG=1"


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        files = (m.name for m in pkgutil.iter_modules(__path__))
        return sorted(f.rstrip("_") for f in files if f not in _HELPERS and not f.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        files = {m.name for m in pkgutil.iter_modules(__path__)}
        return import_module(f"{__name__}.{cmd_name if cmd_name in files else cmd_name + '_'}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = closest(args[0], self.list_commands(ctx))
            if near is None or args[0].startswith("-"):
                raise
            raise click.UsageError(f"no such command `{args[0]}`; did you mean `{near}`?", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ArchError as error:
            from archc.cli.options import show

            show(error.diagnostics, ctx.meta.get("archc.format", "text"))
            ctx.exit(1)

    def main(self, *args: Any, **extra: Any) -> Any:
        # A command makes much and drops little: collecting often costs a tenth of its time and frees next to nothing
        gc.set_threshold(200_000, 20, 20)
        # Drawers have no use for plugins of pydantic; to look for some reads the metadata of every installed package
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        try:
            return super().main(*args, **extra)
        except Exception as error:
            if os.environ.get("ARCHC_DEBUG"):
                raise
            place = f"{type(error).__name__}: {error}".split("\n", 1)[0][:300]
            click.echo(f"archc: internal error: {place}; {_ISSUES}", err=True)
            sys.exit(2)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from archc.version import VERSION

        click.echo(f"archc {VERSION}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def main() -> None:
    """A compiler for neural network architectures."""
