"""Walking and comparing trees in tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from archc.diagnostics import Diagnostic, Sink, Source
from archc.syntax import tree
from archc.syntax.parser import parse


def parsed(text: str) -> tuple[tree.File, tuple[Diagnostic, ...]]:
    """The tree of a text and its diagnostics."""
    sink = Sink()
    return parse(Source("t.arch", text), sink), sink.in_order()


def nodes(node: Any) -> Iterator[tree.Node]:
    """A node and all nodes in it."""
    if isinstance(node, tuple):
        for item in node:
            yield from nodes(item)
    elif isinstance(node, tree.Node):
        yield node
        for field in dataclasses.fields(node):
            if field.name not in ("span", "source"):
                yield from nodes(getattr(node, field.name))


def shape(node: Any) -> Any:
    """A tree without its spans, to compare."""
    if isinstance(node, tuple):
        return tuple(map(shape, node))
    if isinstance(node, tree.Node):
        values = (
            (f.name, shape(getattr(node, f.name))) for f in dataclasses.fields(node) if f.name not in ("span", "source")
        )
        return (type(node).__name__, *values)
    return node
