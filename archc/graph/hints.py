"""Names for emitted variables: those the drawer's own source gives to the values it builds.

A value built by a statement ``q = g.rotate(g.linear(...), rope)`` is called ``q``: the last value a statement builds
gets the statement's targets. A value that a method returns gets its name from the statement that called the method.
Only line numbers are used, so that output does not depend on interpreter switches (`-X no_debug_ranges`).
"""

from __future__ import annotations

import ast
import linecache
from functools import cache
from types import FrameType

from archc.record import dataclass


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


@dataclass(frozen=True, slots=True)
class Claim:
    """The statement that names what is being built: its frame and first line, how far it and its callees have run."""

    frame: int
    line: int
    reached: tuple[int, ...]
    names: tuple[str, ...]

    def continues(self, earlier: Claim) -> bool:
        """Whether this is a later point of the same run of the same statement."""
        return (self.frame, self.line) == (earlier.frame, earlier.line) and self.reached > earlier.reached


def claim(frame: FrameType | None) -> Claim:
    """The claim of the statement that ``frame`` is running.

    Where that is a `return`, or rebinds a parameter of a helper (``x = g.clamp(x)``), the helper only refines what
    its caller names: the caller's statement counts.
    """
    while frame is not None and _of_graph(frame):
        frame = frame.f_back
    reached: list[int] = []
    rebinds: Claim | None = None
    while frame is not None:
        line, names = _statements(frame.f_code.co_filename).get(frame.f_lineno, (frame.f_lineno, ()))
        reached.insert(0, frame.f_lasti)
        here = Claim(id(frame), line, tuple(reached), names or ())
        boundary = frame.f_back is None or _of_graph(frame.f_back)  # beyond it is another scope
        if names is not None:
            if boundary or not names or not set(names) <= _parameters(frame):
                return here if names or rebinds is None else rebinds
            rebinds = rebinds or here
        if boundary:
            return rebinds or here
        frame = frame.f_back
    return Claim(0, 0, (), ())


def _parameters(frame: FrameType) -> set[str]:
    code = frame.f_code
    return set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _of_graph(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").startswith("archc.graph.")
