"""Where commands print their tables: a terminal of any width, or a pipe, which has none."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from archc.cli.options import colour

PIPED_WIDTH = 120
"""Columns where nobody looks at a terminal: wide enough that names and figures of a table stay whole."""


def columns(width: int = PIPED_WIDTH) -> int:
    """Columns of the terminal; piped, ``width`` unless COLUMNS says otherwise."""
    given = os.environ.get("COLUMNS", "")
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or given.isdigit() else width


def print_all(*parts: Any, width: int = PIPED_WIDTH) -> None:
    """Prints tables and lines of rich markup, without blanks at the ends of lines.

    Piped, they are ``width`` columns wide unless COLUMNS says otherwise.
    """
    from rich.console import Console

    console = Console(width=columns(width), no_color=not colour(), highlight=False)
    with console.capture() as printed:
        for part in parts:
            console.print(part)
    console.file.write("\n".join(line.rstrip() for line in printed.get().split("\n")))
