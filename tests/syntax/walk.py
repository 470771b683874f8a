"""Walking and comparing trees in tests."""

from __future__ import annotations

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
        for name in node.fields:
            if name not in ("span", "source"):
                yield from nodes(getattr(node, name))


def shape(node: Any) -> Any:
    """A tree without its spans, to compare."""
    if isinstance(node, tuple):
        return tuple(map(shape, node))
    if isinstance(node, tree.Node):
        values = ((name, shape(getattr(node, name))) for name in node.fields if name not in ("span", "source"))
        return (type(node).__name__, *values)
    return node
