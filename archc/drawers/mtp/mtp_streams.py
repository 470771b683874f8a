"""Multi-token prediction as DeepSeek-V4 has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Mtp, Norm, Residual, field

if TYPE_CHECKING:
    from collections.abc import Callable

    from archc.graph import Builder, Value


class MtpStreams(Mtp):
    """A layer on the residual streams so far, each joined by the token ahead (DeepSeek-V4, arXiv:2606.19348).

    The streams are those after the last layer, before they are collapsed and normed, and each module hands on those
    after its own layer (`MTPBlock` of the released inference code). A module ends as the main model does, with weights
    of its own: it collapses the streams and norms what the shared head gets.
    """

    reads = "streams"

    norm: Norm = field("norm of the embedding, of each stream, and of what the head gets", inherit="norm")

    def build(
        self, g: Builder, embedding: Value, streams: Value, residual: Residual, layer: Callable[..., tuple[Value, ...]]
    ) -> tuple[Value, Value]:
        dim = embedding.type.last
        x = g.linear("e_proj", self.norm.build(g, embedding, "enorm"), out=dim)
        before = g.linear("h_proj", self.norm.build(g, streams, "hnorm"), out=dim)
        state = residual.start(g, x)
        streams = residual.as_streams(g, state) + before
        state = layer(g, *residual.with_streams(g, state, streams))
        streams = residual.as_streams(g, state)
        x = self.norm.build(g, residual.finish(g, state), "norm")
        return x, streams
