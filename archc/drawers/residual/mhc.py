"""Manifold-constrained hyper-connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from archc.schema import Problem, Residual, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value

HC_EPS = 1e-6


class Mhc(Residual):
    """Residual streams mixed by a doubly stochastic matrix around every sub-layer (mHC, arXiv:2512.24880).

    A sub-layer reads a weighted sum of the streams and writes to all of them; the weights are each token's own. The
    mixing matrix is kept as [from, to], the transpose of the paper's: stream k becomes the sum of comb[j, k] times
    stream j.
    """

    streams: int = field("residual streams", default=4, gt=0)
    sinkhorn_iters: int = field("passes of Sinkhorn's iteration over rows and columns", default=20, gt=0)
    form: Literal["v4", "paper"] = field(
        "v4: DeepSeek-V4's, with eps and a learned collapse at the end; paper: without eps, scales that start at 0.01, "
        "the streams summed at the end",
        default="v4",
    )
    hc_eps: float = field(
        "keeps weights that read and mix from zero; of the form v4",
        default_factory=lambda f: 0.0 if f["form"] == "paper" else HC_EPS,
        ge=0,
    )
    norm_eps: float = field("of the norm over all channels of all streams", default=1e-6, ge=0)

    def problems(self) -> Iterator[Problem]:
        if self.form == "paper" and self.hc_eps:
            yield Problem(
                fields=("hc_eps", "form"),
                message=f"hc_eps = {self.hc_eps:g} has nothing to do: the form of the paper adds no eps to its weights",
                help="leave out `hc_eps`, or write `form = v4`",
            )

    def about(self) -> str:
        more = ", in the form of DeepSeek-V4" if self.form == "v4" else ""
        return f"{super().about().removesuffix(').')}{more})."

    def tiny(self) -> dict[str, Any]:
        return {"streams": min(self.streams, 4)}

    def start(self, g: Builder, x: Value) -> tuple[Value, ...]:
        streams = g.expand(x, n=self.streams)
        return (streams,)

    def enter(self, g: Builder, state: tuple[Value, ...], name: str) -> tuple[Value, tuple[Value, ...]]:
        (streams,) = state
        x, post, comb = g.call(f"{name}_hc", "HyperConnection", self.coefficients, streams)
        return x, (streams, post, comb)

    def leave(self, g: Builder, state: tuple[Value, ...], y: Value) -> tuple[Value, ...]:
        streams, post, comb = state
        streams = g.cast(g.mix(g.cast(streams, to="fp32"), comb, g.cast(y, to="fp32"), post), streams, to="act")
        return (streams,)

    def finish(self, g: Builder, state: tuple[Value, ...]) -> Value:
        (streams,) = state
        paper = self.form == "paper"
        x = g.sum(streams, dim=-2) if paper else g.call("hc_head", "HyperHead", self.head, streams)
        return x

    def as_streams(self, g: Builder, state: tuple[Value, ...]) -> Value:
        return state[0]

    def with_streams(self, g: Builder, state: tuple[Value, ...], streams: Value) -> tuple[Value, ...]:
        return (streams,)

    def mixes(self, g: Builder, streams: Value, prefix: str, out: int) -> Value:
        """The linear part of the coefficients [B, S, out], in float32: one norm over all streams of a token,
        without weight, which is a factor after the matrix as well as before.
        """
        flat = g.flatten(streams)
        weight = g.param(f"{prefix}fn", (out, flat.type.last), dtype="fp32")
        return g.project(flat, weight) * g.inverse_rms(flat, eps=self.norm_eps)

    def scales(self, g: Builder, name: str, count: int) -> Value:
        """Factors of what depends on the token, against what does not (the base): [count]."""
        init = 0.01 if self.form == "paper" else "ones"
        return g.param(name, (count,), role="scale", init=init, dtype="fp32")

    def above_zero(self, weights: Value) -> Value:
        """The weights that streams are read with, plus eps where the form has one."""
        return weights + self.hc_eps if self.hc_eps else weights

    def coefficients(self, g: Builder, streams: Value) -> tuple[Value, Value, Value]:
        """What a sub-layer reads, how its output is spread over the streams (post), and how these are mixed:
        comb[from, to].
        """
        n = self.streams
        wide = g.cast(streams, to="fp32")
        mixes = self.mixes(g, wide, "", n * (n + 2))
        pre, post, comb = g.split(mixes, sizes=(n, n, n * n))
        base = g.param("base", (n * (n + 2),), role="bias", init="zeros", dtype="fp32")
        pre_base, post_base, comb_base = g.split(base, sizes=(n, n, n * n))
        pre_scale, post_scale, comb_scale = g.unbind(self.scales(g, "scale", 3))
        pre = self.above_zero(g.sigmoid(pre * pre_scale + pre_base))
        post = g.sigmoid(post * post_scale + post_base) * 2
        comb = g.unflatten(comb * comb_scale + comb_base, sizes=(n, n))
        comb = g.sinkhorn(comb, iters=self.sinkhorn_iters, eps=self.hc_eps)
        x = g.cast(g.collapse(wide, pre), streams, to="act")
        return x, post, comb

    def head(self, g: Builder, streams: Value) -> Value:
        """The streams collapsed at the end of the model."""
        wide = g.cast(streams, to="fp32")
        mixes = self.mixes(g, wide, "hc_", self.streams)
        scale = self.scales(g, "hc_scale", 1)
        base = g.param("hc_base", (self.streams,), role="bias", init="zeros", dtype="fp32")
        pre = self.above_zero(g.sigmoid(mixes * scale + base))
        return g.cast(g.collapse(wide, pre), streams, to="act")
