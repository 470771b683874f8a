"""Hyper-connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.drawers.residual._streams import Streams
from archc.schema import field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Hc(Streams):
    """Residual streams mixed by an unconstrained matrix around every sub-layer (hyper-connections, arXiv:2409.19606).

    A sub-layer reads a weighted sum of the streams and writes to all of them; the streams are summed at the end. The
    weights are parameters, and with ``dynamic`` each token adds what a stream, normed, says of its own:
    scale * tanh(fn . norm(stream)). They start as x + F(x) in every stream: sub-layer k reads stream k modulo their
    number, writes to all alike, and nothing is mixed (equation 14); what depends on the token starts at zero.

    The norm is RMS without weight: the paper leaves it open (its code has a layer norm, its OLMo models one without
    weights). It also scales what projects back to the streams at the start, which is the init drawer's affair here.
    """

    dynamic: bool = field("weights that depend on the token, beside those that do not", default=True)
    norm_eps: float = field("of the norm over the channels of a stream", default=1e-6, ge=0)

    def enter(self, g: Builder, state: tuple[Value, ...], name: str) -> tuple[Value, tuple[Value, ...]]:
        (streams,) = state
        place = (2, 1 if name == "ffn" else 0)
        x, post, comb = g.call(f"{name}_hc", "HyperConnection", self.coefficients, streams, place=place)
        return x, (streams, post, comb)

    def finish(self, g: Builder, state: tuple[Value, ...]) -> Value:
        (streams,) = state
        x = g.sum(streams, dim=-2)
        return x

    def coefficients(self, g: Builder, streams: Value) -> tuple[Value, Value, Value]:
        """What a sub-layer reads, how its output is spread over the streams (post), and how these are mixed:
        comb[from, to].
        """
        n = self.streams
        pre = g.param("pre", (n,), role="bias", init="turn", dtype="fp32")
        post = g.param("post", (n,), role="bias", init="ones", dtype="fp32")
        comb = g.param("comb", (n, n), role="bias", init="eye", dtype="fp32")
        wide = g.cast(streams, to="fp32")
        if self.dynamic:
            weight = g.param("fn", (n + 2, wide.type.last), init="zeros", dtype="fp32")
            mixes = g.tanh(g.project(wide, weight) * g.inverse_rms(wide, eps=self.norm_eps))
            own_pre, own_post, own_comb = g.split(mixes, sizes=(1, 1, n))
            pre_comb_scale, post_scale = g.unbind(g.param("scale", (2,), role="scale", init=0.01, dtype="fp32"))
            pre = g.flatten(own_pre) * pre_comb_scale + pre
            post = g.flatten(own_post) * post_scale + post
            comb = own_comb * pre_comb_scale + comb
        else:
            pre = g.tokenwise(pre, streams, dims=1)
            post = g.tokenwise(post, streams, dims=1)
            comb = g.tokenwise(comb, streams, dims=2)
        x = g.cast(g.collapse(wide, pre), streams, to="act")
        return x, post, comb
