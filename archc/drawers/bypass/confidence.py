"""A gate that lets sure tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archc.schema import Bypass, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value

START = -3.0
"""The bias that a gate starts with: nobody is sure of a token before anything was learned (sigmoid(-3) = 0.05)."""


class Confidence(Bypass):
    """Tokens that a gate is sure of skip the layers that follow (early exit, as in CALM, arXiv:2207.07061).

    Of memories, popular accounts alone tell it: no paper of DeepSeek has it. A token is let out where sigmoid(w .
    norm(streams) + b) is above a threshold; the later layers read its state as it is then. In training that number is a
    blend instead, c of what a layer got and 1 - c of what it made. Nothing in the language loss asks for confidence, so
    a loss of its own does: ``weight`` times the part of the later layers that tokens go through.
    """

    threshold: float = field("confidence above which a token skips; 1: none does", default=0.5, ge=0, le=1)
    weight: float = field("of the loss that asks for confidence; 0: none", default=0.05, ge=0)
    eps: float = field("of the norm over all channels of all streams", default=1e-6, ge=0)

    def tiny(self) -> dict[str, Any]:
        return {"threshold": min(self.threshold, 0.5)}

    def build(self, g: Builder, streams: Value) -> Value:
        flat = g.flatten(g.cast(streams, to="fp32"))
        weight = g.param("weight", (flat.type.last,), role="scale", init="zeros", dtype="fp32")
        bias = g.param("bias", (1,), role="bias", init=START, dtype="fp32")
        score = g.einsum(g.rms_norm(None, flat, eps=self.eps), weight, spec="bsd,d->bs")
        confidence = g.sigmoid(score + bias)
        if self.weight:
            g.depth(confidence, g.time, weight=self.weight)
        return g.decide(confidence, threshold=self.threshold)
