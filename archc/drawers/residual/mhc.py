"""Manifold-constrained hyper-connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Residual, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Mhc(Residual):
    """Residual streams mixed by a doubly stochastic matrix around every sub-layer (mHC, arXiv:2512.24880, as in
    DeepSeek-V4).
    """

    streams: int = field("residual streams", default=4, gt=1)
    sinkhorn_iters: int = field("passes of Sinkhorn's iteration", default=20, gt=0)
    hc_eps: float = field("what keeps the mixing weights from zero", default=1e-6, ge=0)
    norm_eps: float = field("of the norm over all streams", default=1e-6, ge=0)

    def start(self, g: Builder, x: Value) -> tuple[Value, ...]:
        streams = g.expand(x, n=self.streams)
        return (streams,)

    def enter(self, g: Builder, state: tuple[Value, ...], name: str) -> tuple[Value, tuple[Value, ...]]:
        (streams,) = state
        x, post, comb = g.call(f"{name}_hc", "HyperConnection", self.coefficients, streams)
        return x, (streams, post, comb)

    def leave(self, g: Builder, state: tuple[Value, ...], y: Value) -> tuple[Value, ...]:
        streams, post, comb = state
        mixed = g.einsum(comb, g.cast(streams, to="fp32"), spec="bsjk,bsjd->bskd")
        streams = g.cast(g.unsqueeze(post, dim=-1) * g.unsqueeze(y, dim=-2) + mixed, streams, to="act")
        return (streams,)

    def finish(self, g: Builder, state: tuple[Value, ...]) -> Value:
        x = g.call("hc_head", "HyperHead", self.head, *state, doc="The streams collapsed at the end of the model.")
        return x

    def as_streams(self, g: Builder, state: tuple[Value, ...]) -> Value:
        return state[0]

    def with_streams(self, g: Builder, state: tuple[Value, ...], streams: Value) -> tuple[Value, ...]:
        return (streams,)

    def mixes(self, g: Builder, streams: Value, prefix: str, out: int) -> Value:
        """The linear part of the coefficients [B, S, out], in float32: one norm over all streams of a token,
        without weight.
        """
        flat = g.rms_norm(None, g.flatten(streams), eps=self.norm_eps)
        return g.project(flat, g.param(f"{prefix}fn", (out, flat.type.last), dtype="fp32"))

    def coefficients(self, g: Builder, streams: Value) -> tuple[Value, Value, Value]:
        """The collapsed input of a sub-layer, how its output is spread (post), and how the streams are mixed
        (comb).
        """
        n = self.streams
        wide = g.cast(streams, to="fp32")
        pre, post, comb = g.split(self.mixes(g, wide, "", n * (n + 2)), sizes=(n, n, n * n))
        base = g.param("base", (n * (n + 2),), role="bias", init="zeros", dtype="fp32")
        pre_base, post_base, comb_base = g.split(base, sizes=(n, n, n * n))
        pre_scale, post_scale, comb_scale = g.unbind(g.param("scale", (3,), role="scale", init="ones", dtype="fp32"))
        pre = g.sigmoid(pre * pre_scale + pre_base) + self.hc_eps
        post = g.sigmoid(post * post_scale + post_base) * 2
        comb = g.unflatten(comb * comb_scale + comb_base, sizes=(n, n))
        comb = g.sinkhorn(comb, iters=self.sinkhorn_iters, eps=self.hc_eps)
        x = g.cast(g.einsum(pre, wide, spec="bsn,bsnd->bsd"), streams, to="act")
        return x, post, comb

    def head(self, g: Builder, streams: Value) -> Value:
        """The streams collapsed at the end of the model."""
        wide = g.cast(streams, to="fp32")
        mixes = self.mixes(g, wide, "hc_", self.streams)
        scale = g.param("hc_scale", (1,), role="scale", init="ones", dtype="fp32")
        base = g.param("hc_base", (self.streams,), role="bias", init="zeros", dtype="fp32")
        pre = g.sigmoid(mixes * scale + base) + self.hc_eps
        return g.cast(g.einsum(pre, wide, spec="bsn,bsnd->bsd"), streams, to="act")
