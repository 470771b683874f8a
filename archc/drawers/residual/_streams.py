"""What drawers of several residual streams share: how these start, and how a sub-layer's output is written to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archc.schema import Residual, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Streams(Residual):
    """Base of the drawers whose sub-layers read a weighted sum of streams, and mix them.

    The first value of a state is the streams [B, S, M, D]. What `enter` hands to `leave` ends with the weights that a
    sub-layer's output is spread by (post [B, S, M]), and those that mix the streams (comb [B, S, M, M], [from, to]).
    """

    mixes_in = True

    streams: int = field("residual streams", default=4, gt=0)

    def tiny(self) -> dict[str, Any]:
        return {"streams": min(self.streams, 4)}

    def start(self, g: Builder, x: Value) -> tuple[Value, ...]:
        streams = g.expand(x, n=self.streams)
        return (streams,)

    def leave(self, g: Builder, state: tuple[Value, ...], y: Value) -> tuple[Value, ...]:
        streams, *carried, post, comb = state
        streams = g.cast(g.mix(g.cast(streams, to="fp32"), comb, g.cast(y, to="fp32"), post), streams, to="act")
        return (streams, *carried)

    def before(self, g: Builder, x: Value) -> tuple[Value, ...]:
        """The embedding as the output of a sub-layer that wrote to every stream, and kept nothing of them."""
        streams, *carried = self.start(g, x)
        post = g.filled(x, number=1.0, dims=(self.streams,))
        comb = g.filled(x, dims=(self.streams, self.streams))
        y = x
        return (streams, *carried, post, comb, y)

    def as_streams(self, g: Builder, state: tuple[Value, ...]) -> Value:
        return state[0]

    def with_streams(self, g: Builder, state: tuple[Value, ...], streams: Value) -> tuple[Value, ...]:
        return (streams, *state[1:])
