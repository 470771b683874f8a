"""Names for emitted variables: those the drawer's own source gives to the values it builds.

A value built by a statement ``q = g.rotate(g.linear(...), rope)`` is called ``q``: the last value a statement builds gets the
statement's targets. A value that a method returns gets its name from the statement that called the method. Only line numbers
are used, so that output does not depend on interpreter switches (`-X no_debug_ranges`).
"""

from __future__ import annotations

import ast
import linecache
from functools import cache
from types import FrameType


@cache
def _statements(path: str) -> dict[int, tuple[int, tuple[str, ...] | None]]:
    """For every line: the first line of its innermost simple statement, and the names it binds (None for `return`)."""
    text = "".join(linecache.getlines(path))
    found: dict[int, tuple[int, tuple[str, ...] | None]] = {}
    if not text:
        return found
    for node in ast.walk(ast.parse(text)):
        names: tuple[str, ...] | None
        if isinstance(node, ast.Return):
            names = None
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            names = tuple(p.id if isinstance(p, ast.Name) else "" for p in parts)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name):
            names = (node.target.id,)
        elif isinstance(node, ast.Expr):
            names = ()
        else:
            continue
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            found[line] = (node.lineno, names)
    return found


Statement = tuple[int, int]
"""A statement being run: identity of the frame, first line."""


def assignment(frame: FrameType | None) -> tuple[tuple[Statement, ...], tuple[str, ...]]:
    """The statements that ``frame`` is inside of, up to the one that binds names, and those names."""
    running: list[Statement] = []
    while frame is not None:
        line, names = _statements(frame.f_code.co_filename).get(frame.f_lineno, (frame.f_lineno, ()))
        running.append((id(frame), line))
        if names is not None:
            return tuple(running), names
        frame = frame.f_back
    return tuple(running), ()
