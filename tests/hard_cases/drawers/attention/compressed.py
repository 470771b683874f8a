"""Attention over a window and compressed entries (DeepSeek-V4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from archc.ops import Ring
from archc.schema import Attention, Problem, Rope, field
from archc.schema.slots import Compress

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Compressed(Attention):
    """One key-value head over a window, a sink, and compressed entries of what lies before (DeepSeek-V4,
    arXiv:2606.19348)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    heads: int = field("query heads", gt=0)
    head_dim: int = field("width of a head", unit="channels", gt=0)
    q_rank: int = field("width of the query latent", unit="channels", gt=0)
    out_groups: int = field("groups of heads with an output projection of their own", gt=0)
    out_rank: int = field("width of a group's projected output", unit="channels", gt=0)
    window: int = field("attend to the last tokens, this one included", unit="tokens", gt=0)
    eps: float = field("of the norms of latents and heads", default=1e-6, ge=0)
    rope: Rope = field("rotary positions of queries, keys and entries, turned back on the output")
    compress: Compress | None = field("what lies before the window, as entries", default=None)

    def problems(self) -> Iterator[Problem]:
        if self.heads * self.head_dim % self.out_groups:
            wide = f"heads x head_dim = {self.heads} x {self.head_dim}"
            yield Problem(fields=("out_groups",), message=f"out_groups = {self.out_groups} does not divide {wide}")

    def build(self, g: Builder, x: Value) -> Value:
        q_latent = g.rms_norm("q_a_norm", g.linear("q_a_proj", x, out=self.q_rank), eps=self.eps)
        q = g.unflatten(
            g.linear("q_b_proj", q_latent, out=self.heads * self.head_dim), sizes=(self.heads, self.head_dim)
        )
        q = self.rope.build(g, g.rms_norm(None, q, eps=self.eps))
        kv = self.rope.build(g, g.rms_norm("kv_norm", g.linear("kv_proj", x, out=self.head_dim), eps=self.eps))
        recent = g.recall(
            kv, g.state("window", Ring(keep=self.window - 1, shape=(self.head_dim,))), g.time, keep=self.window - 1
        )
        entries, picks, every = None, None, 1
        if self.compress is not None:
            entries, picks = self.compress.build(g, x, q_latent, self.head_dim, self.rope)
            every = self.compress.stride()
        sinks = g.param("sinks", (self.heads,), role="scale", init="zeros", dtype="fp32")
        out = g.sparse_attention(
            q, recent, sinks, g.time, entries, picks, scale=self.head_dim**-0.5, window=self.window, every=every
        )
        out = self.rope.build(g, out, inverse=True)
        return self.project_out(g, out)

    def project_out(self, g: Builder, out: Value) -> Value:
        """Each group of heads through a low-rank matrix of its own, then all through one [B, S, dim]."""
        wide = self.heads * self.head_dim // self.out_groups
        out = g.unflatten(g.flatten(out), sizes=(self.out_groups, wide))
        weight = g.unflatten_rows(
            g.param("o_a_proj.weight", (self.out_groups * self.out_rank, wide)), n=self.out_groups
        )
        out = g.einsum(out, weight, spec="bsgi,goi->bsgo")
        return g.linear("o_b_proj", g.flatten(out), out=self.dim, role="output")
