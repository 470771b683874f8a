"""The plain residual connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Residual

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Add(Residual):
    """x + F(x) (He et al. 2015, arXiv:1512.03385)."""

    def enter(self, g: Builder, state: tuple[Value, ...], name: str) -> tuple[Value, tuple[Value, ...]]:
        (x,) = state
        return x, (x,)

    def leave(self, g: Builder, state: tuple[Value, ...], y: Value) -> tuple[Value, ...]:
        (x,) = state
        x = x + y
        return (x,)

    def before(self, g: Builder, x: Value) -> tuple[Value, ...]:
        y = g.filled(x, dims=(x.type.last,), narrow=True)
        return x, y

    def as_streams(self, g: Builder, state: tuple[Value, ...]) -> Value:
        (x,) = state
        return g.unsqueeze(x, dim=-2)

    def with_streams(self, g: Builder, state: tuple[Value, ...], streams: Value) -> tuple[Value, ...]:
        x = g.flatten(streams)
        return (x,)
