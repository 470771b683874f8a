"""Multi-head latent attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from archc.ops import Fp8Tiles, Table
from archc.schema import Attention, Norm, Problem, Rope, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


def _scale(f: dict[str, Any]) -> float:
    """One over the root of the width of a head, times what the rope asks for."""
    correction = 1.0 if f["rope"] is None else f["rope"].softmax_correction()
    return (f["nope_dim"] + f["rope_dim"]) ** -0.5 * correction


class Mla(Attention):
    """Multi-head latent attention: keys and values of all heads made of one latent (DeepSeek-V2, arXiv:2405.04434)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    heads: int = field("query heads", gt=0)
    q_rank: int | None = field(
        "width of the latent that queries are made of; none makes them of the input",
        unit="channels",
        default=None,
        gt=0,
    )
    kv_rank: int = field("width of the latent that keys and values are made of", unit="channels", gt=0)
    nope_dim: int = field("channels of a head's query and key without positions", unit="channels", gt=0)
    rope_dim: int = field(
        "channels of a head's query with positions; all heads share those of the key", unit="channels", gt=0
    )
    v_dim: int = field("channels of a head's value", unit="channels", gt=0)
    rope: Rope | None = field("rotary positions of the rope_dim channels", default=None)
    latent_norm: Norm = field("norm of the latents", kind="rms")
    bias: bool = field("biases in q_a_proj, kv_a_proj_with_mqa and o_proj", default=False)
    scale: float = field("factor on the attention logits", default_factory=_scale, gt=0)

    def problems(self) -> Iterator[Problem]:
        if self.rope is None:
            return
        if self.rope_dim % 2:
            yield Problem(fields=("rope_dim",), message=f"rope_dim = {self.rope_dim} channels do not form pairs")
        turned = getattr(self.rope, "dim", None)
        if turned not in (None, self.rope_dim):
            yield Problem(
                fields=("rope", "rope_dim"),
                message=f"the rope rotates {turned} channels, but rope_dim is {self.rope_dim}",
                help="leave out `dim` of the rope: `rope_dim` says how many channels are rotated",
            )

    def about(self) -> str:
        """With what the cache keeps of a token, how that is read, and where the scale comes from."""
        width = self.nope_dim + self.rope_dim
        correction = 1.0 if self.rope is None else self.rope.softmax_correction()
        text = (
            f"{super().about()}\n\nOf a token the cache keeps its latent and {self.rope_dim} key channels that all"
            " heads share. `latent_attend` expands them to keys and values, or, for up to `absorb` new tokens after"
            " cached ones, works on the latents themselves."
        )
        if self.rope is None or not math.isclose(self.scale, width**-0.5 * correction) or math.isclose(correction, 1):
            return text
        return f"{text} Logits are scaled by 1 / sqrt({width}), times {correction:.6g} for {self.rope.kind}."

    def tiny(self) -> dict[str, Any]:
        nope, rope = min(self.nope_dim, 16), min(self.rope_dim, 16)
        return {
            "heads": min(self.heads, 4),
            "q_rank": self.q_rank and min(self.q_rank, 48),
            "kv_rank": min(self.kv_rank, 32),
            "nope_dim": nope,
            "rope_dim": rope,
            "v_dim": min(self.v_dim, 16),
            "scale": self.scale * ((self.nope_dim + self.rope_dim) / (nope + rope)) ** 0.5,
        }

    def build(self, g: Builder, x: Value) -> Value:
        q_latent = x if self.q_rank is None else self.q_latent(g, x, self.q_rank)
        q = self.queries(g, q_latent)
        entries = self.entries(g, x)
        keys, values = self.expand(g, entries)
        out = g.attend(q, keys, values, g.time, scale=self.scale)
        return g.linear("o_proj", g.flatten(out), out=self.dim, bias=self.bias, role="output")

    def q_latent(self, g: Builder, x: Value, rank: int) -> Value:
        """The latent that queries are made of [B, S, rank]."""
        return self.latent_norm.build(g, g.linear("q_a_proj", x, out=rank, bias=self.bias), "q_a_layernorm")

    def queries(self, g: Builder, x: Value) -> Value:
        """Queries of every head [B, S, heads, nope_dim + rope_dim], the last rope_dim channels rotated; of the input
        where they have no latent.
        """
        sizes = (self.heads, self.nope_dim + self.rope_dim)
        name = "q_proj" if self.q_rank is None else "q_b_proj"
        q = g.unflatten(g.linear(name, x, out=math.prod(sizes)), sizes=sizes)
        return q if self.rope is None else self.rope.build(g, q, last=self.rope_dim)

    def entries(self, g: Builder, x: Value) -> Value:
        """The latent of every token so far, and the rotated channels of its key [B, T, kv_rank + rope_dim]."""
        width = self.kv_rank + self.rope_dim
        latent, k_rope = g.split(
            g.linear("kv_a_proj_with_mqa", x, out=width, bias=self.bias), sizes=(self.kv_rank, self.rope_dim)
        )
        latent = self.latent_norm.build(g, latent, "kv_a_layernorm")
        if self.rope is not None:
            k_rope = self.rope.build(g, k_rope)
        store = Table(every=1, shape=(width,), packing=Fp8Tiles(plain=self.rope_dim))
        return g.append(g.cat(latent, k_rope), g.state("latents", store), g.time)

    def expand(self, g: Builder, entries: Value) -> tuple[Value, Value]:
        """Keys and values of every head [B, T, heads, ...] from latents; the rotated channels are those of all."""
        latent, k_rope = g.split(entries, sizes=(self.kv_rank, self.rope_dim))
        kv = g.linear("kv_b_proj", latent, out=self.heads * (self.nope_dim + self.v_dim))
        kv = g.unflatten(kv, sizes=(self.heads, self.nope_dim + self.v_dim))
        k_nope, values = g.split(kv, sizes=(self.nope_dim, self.v_dim))
        return g.cat(k_nope, g.expand(k_rope, n=self.heads)), values
