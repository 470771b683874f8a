"""Attention over a window and compressed entries (DeepSeek-V4)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from archc.ops import Fp8Keys, Ring
from archc.schema import Attention, Compress, Far, Problem, Rope, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Windowed(Attention):
    """A window, compressed entries and a sink in one softmax (DeepSeek-V4, arXiv:2606.19348).

    One key-value head serves all query heads, and its keys are its values (section 2.3).
    """

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    heads: int = field("query heads", gt=0)
    head_dim: int = field("width of a head", unit="channels", gt=0)
    rope_dim: int = field("channels at the end of a head that have positions", unit="channels", gt=0, multiple_of=2)
    q_rank: int = field("width of the latent that queries are made of", unit="channels", gt=0)
    out_groups: int = field("groups of heads with an output projection of their own", gt=0)
    out_rank: int = field("width of a group's projected output", unit="channels", gt=0)
    window: int = field("attend to the last tokens, this one included", unit="tokens", gt=0)
    sinks: bool = field("one learned logit per head that takes attention mass and gives no value", default=True)
    q_norm: bool = field("norm every head of the queries, without weights", default=True)
    eps: float = field("of the norms of latents, keys, entries and query heads", default=1e-6, ge=0)
    rope: Rope = field("rotary positions of queries, keys and entries, turned back on the output")
    compress: Compress | None = field("makes entries of groups of tokens, attended to beside the window", default=None)
    scale: float = field(
        "factor on the attention logits; 1 / sqrt(head_dim) when left out, however far the rope is stretched",
        default_factory=lambda f: f["head_dim"] ** -0.5,
        gt=0,
    )

    def problems(self) -> Iterator[Problem]:
        if self.heads * self.head_dim % self.out_groups:
            wide = f"heads x head_dim = {self.heads} x {self.head_dim}"
            yield Problem(fields=("out_groups",), message=f"out_groups = {self.out_groups} does not divide {wide}")
        if self.rope_dim > self.head_dim:
            yield Problem(
                fields=("rope_dim", "head_dim"),
                message=f"rope_dim = {self.rope_dim} channels of a head of head_dim = {self.head_dim}",
            )
        turned = getattr(self.rope, "dim", None)
        if turned not in (None, self.rope_dim):
            yield Problem(
                fields=("rope", "rope_dim"),
                message=f"the rope rotates {turned} channels, but rope_dim is {self.rope_dim}",
                help="leave out `dim` of the rope: `rope_dim` says how many channels are rotated",
            )
        if self.compress is not None:
            for misfit in self.compress.misfits(self.rope_dim):
                fields = (*(f"compress.{name}" for name in misfit.fields), "rope_dim")
                yield Problem(fields=fields, message=misfit.message, help=misfit.help)

    def about(self) -> str:
        """With what a query attends to, and how queries and outputs are projected."""
        seen = [f"the last {self.window} tokens" if self.window > 1 else "its own token"]
        seen += ["compressed entries"] * (self.compress is not None) + ["a sink"] * self.sinks
        listed = " and ".join(filter(None, (", ".join(seen[:-1]), seen[-1])))
        normed = " and normed head by head" if self.q_norm else ""
        grouped = f"{self.out_groups} groups of heads are" if self.out_groups > 1 else "all heads together are"
        each = " each" if self.out_groups > 1 else ""
        return (
            f"A query attends to {listed} in one softmax; the one key-value head's keys are their own values"
            " (DeepSeek-V4, arXiv:2606.19348, section 2.3).\n\n"
            f"Queries are made of {self.q_rank} channels{normed}. Outputs are turned back by the query's position, for"
            f" values carry theirs; {grouped} projected out through {self.out_rank} channels{each}."
        )

    def build(self, g: Builder, x: Value) -> Value:
        q_latent = g.rms_norm("q_a_norm", g.linear("q_a_proj", x, out=self.q_rank), eps=self.eps)
        q = g.unflatten(
            g.linear("q_b_proj", q_latent, out=self.heads * self.head_dim), sizes=(self.heads, self.head_dim)
        )
        if self.q_norm:
            q = g.rms_norm(None, q, eps=self.eps)
        rotate = partial(self.rope.build, last=self.rope_dim)
        q = rotate(g, q)
        kv = g.rms_norm("kv_norm", g.linear("kv_proj", x, out=self.head_dim), eps=self.eps)
        kv = rotate(g, kv)
        keep = self.window - 1
        packing = Fp8Keys(plain=self.rope_dim)
        window = g.state("window", Ring(keep=keep, shape=(self.head_dim,), packing=packing))
        recent = g.recall(kv, window, g.time, keep=keep)
        far = None
        if self.compress is not None:
            far = self.compress.build(g, x, q_latent, self.head_dim, rotate, packing)
        sinks = None
        if self.sinks:
            sinks = g.param("sinks", (self.heads,), role="scale", init="zeros", dtype="fp32")
        out = rotate(g, self.attend(g, q, recent, sinks, far), inverse=True)
        return self.project_out(g, out)

    def attend(self, g: Builder, q: Value, recent: Value, sinks: Value | None, far: Far | None) -> Value:
        """One softmax over the window, entries and the sink: [B, S, heads, head_dim]. An indexer that picked entries
        learns from it.
        """
        fields = {"scale": self.scale, "window": self.window, "sink": self.sinks}
        if self.compress is None or far is None:
            return g.sparse_attention(q, recent, g.time, sinks, **fields)
        fields["every"] = every = self.compress.every()
        entries, picks, scores, weight = far
        if picks is None or scores is None or not weight:
            return g.sparse_attention(q, recent, g.time, sinks, entries, picks, **fields)
        # The op gives two values with `lse`, which its signature does not say.
        y, lse = g.sparse_attention(q, recent, g.time, sinks, entries, picks, **fields, lse=True)  # pyright: ignore[reportGeneralTypeIssues]
        with g.component("indexer"):
            g.index_divergence(*scores, q, entries, lse, g.time, picks, weight=weight, scale=self.scale, every=every)
        return y

    def project_out(self, g: Builder, out: Value) -> Value:
        """Each group of heads through a low-rank matrix of its own, then all through one: [B, S, dim]."""
        wide = self.heads * self.head_dim // self.out_groups
        out = g.unflatten(g.flatten(out), sizes=(self.out_groups, wide))
        weight = g.param("o_a_proj.weight", (self.out_groups * self.out_rank, wide))
        weight = g.unflatten_rows(weight, n=self.out_groups)
        out = g.einsum(out, weight, spec="bsgi,goi->bsgo")
        return g.linear("o_b_proj", g.flatten(out), out=self.dim, role="output")

    def tiny(self) -> dict[str, Any]:
        groups = min(self.out_groups, 2)
        heads = groups * min(max(1, self.heads // self.out_groups), 2)
        return {
            "heads": heads,
            "head_dim": min(self.head_dim, 32),
            "rope_dim": min(self.rope_dim, 16),
            "q_rank": min(self.q_rank, 48),
            "out_groups": groups,
            "out_rank": min(self.out_rank, 32),
            "window": min(self.window, 16),
            "scale": self.scale * (self.head_dim / min(self.head_dim, 32)) ** 0.5,
        }
