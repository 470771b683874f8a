"""Manifold-constrained hyper-connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from archc.drawers.residual._streams import Streams
from archc.schema import Problem, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value

HC_EPS = 1e-6


FORMS = {"v4": ", in the form of DeepSeek-V4", "paper": "", "single_pass": ", in the single-pass form of DeepSeek-V4.1"}


class Mhc(Streams):
    """Residual streams mixed by a doubly stochastic matrix around every sub-layer (mHC, arXiv:2512.24880).

    A sub-layer reads a weighted sum of the streams and writes to all of them; the weights are each token's own. The
    mixing matrix is kept as [from, to], the transpose of the paper's: stream k becomes the sum of comb[j, k] times
    stream j.

    In the form single_pass (``inference/model.py`` of DeepSeek-V4.1) a sub-layer reads by weights that the sub-layer
    before made of its own streams, so that one pass over the streams writes, mixes and reads. The first sub-layer reads
    stream 0, and the weights of the last collapse the streams at the end.
    """

    sinkhorn_iters: int = field("passes of Sinkhorn's iteration over rows and columns", default=20, gt=0)
    form: Literal["v4", "paper", "single_pass"] = field(
        "v4: DeepSeek-V4's, with eps and a learned collapse at the end; paper: without eps, scales that start at 0.01, "
        "the streams summed at the end; single_pass: DeepSeek-V4.1's, read by weights of the sub-layer before",
        default="v4",
    )
    hc_eps: float = field(
        "keeps weights that read and mix from zero; not in the form of the paper",
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
        about = super().about()
        return f"{about.removesuffix(').')}{FORMS[self.form]})."

    def start(self, g: Builder, x: Value) -> tuple[Value, ...]:
        (streams,) = super().start(g, x)
        if self.form != "single_pass":
            return (streams,)
        pre = g.only(streams, stream=0)
        return streams, pre

    def enter(self, g: Builder, state: tuple[Value, ...], name: str) -> tuple[Value, tuple[Value, ...]]:
        if self.form == "single_pass":
            streams, pre = state
            x, pre, post, comb = g.call(f"{name}_hc", "HyperConnection", self.ahead, streams, pre)
            return x, (streams, pre, post, comb)
        (streams,) = state
        x, post, comb = g.call(f"{name}_hc", "HyperConnection", self.here, streams)
        return x, (streams, post, comb)

    def finish(self, g: Builder, state: tuple[Value, ...]) -> Value:
        streams, *pre = state
        match self.form:
            case "paper":
                x = g.sum(streams, dim=-2)
            case "v4":
                x = g.call("hc_head", "HyperHead", self.head, streams)
            case "single_pass":
                x = self.read(g, g.cast(streams, to="fp32"), *pre, like=streams)
        return x

    def read(self, g: Builder, wide: Value, pre: Value, like: Value) -> Value:
        """The sum of streams [B, S, M, D] times weights [B, S, M], in the dtype of ``like``: [B, S, D]."""
        return g.cast(g.collapse(wide, pre), like, to="act")

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

    def here(self, g: Builder, streams: Value) -> tuple[Value, Value, Value]:
        """What a sub-layer reads, how its output is spread over the streams (post), and how these are mixed:
        comb[from, to].
        """
        wide = g.cast(streams, to="fp32")
        pre, post, comb = self.coefficients(g, wide)
        x = self.read(g, wide, pre, like=streams)
        return x, post, comb

    def ahead(self, g: Builder, streams: Value, pre: Value) -> tuple[Value, Value, Value, Value]:
        """What a sub-layer reads, by the weights of the one before, and its own: by what the next one reads (pre), how
        its output is spread over the streams (post), and how these are mixed: comb[from, to].
        """
        wide = g.cast(streams, to="fp32")
        x = self.read(g, wide, pre, like=streams)
        pre, post, comb = self.coefficients(g, wide)
        return x, pre, post, comb

    def coefficients(self, g: Builder, wide: Value) -> tuple[Value, Value, Value]:
        """Weights in float32 by which streams are read [B, S, M], written [B, S, M] and mixed [B, S, M, M]."""
        n = self.streams
        mixes = self.mixes(g, wide, "", n * (n + 2))
        pre, post, comb = g.split(mixes, sizes=(n, n, n * n))
        base = g.param("base", (n * (n + 2),), role="bias", init="zeros", dtype="fp32")
        pre_base, post_base, comb_base = g.split(base, sizes=(n, n, n * n))
        pre_scale, post_scale, comb_scale = g.unbind(self.scales(g, "scale", 3))
        pre = self.above_zero(g.sigmoid(pre * pre_scale + pre_base))
        post = g.sigmoid(post * post_scale + post_base) * 2
        comb = g.unflatten(comb * comb_scale + comb_base, sizes=(n, n))
        comb = g.sinkhorn(comb, iters=self.sinkhorn_iters, eps=self.hc_eps)
        return pre, post, comb

    def head(self, g: Builder, streams: Value) -> Value:
        """The streams collapsed at the end of the model."""
        wide = g.cast(streams, to="fp32")
        mixes = self.mixes(g, wide, "hc_", self.streams)
        scale = self.scales(g, "hc_scale", 1)
        base = g.param("hc_base", (self.streams,), role="bias", init="zeros", dtype="fp32")
        pre = self.above_zero(g.sigmoid(mixes * scale + base))
        return g.cast(g.collapse(wide, pre), streams, to="act")
