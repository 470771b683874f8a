"""Grouped-query attention, from multi-head (kv_heads = heads) to multi-query (kv_heads = 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from archc.ops import Ring, Table
from archc.schema import Attention, Norm, Problem, Rope, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Gqa(Attention):
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245)."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    heads: int = field("query heads", gt=0)
    kv_heads: int = field(
        "key-value heads, each shared by heads / kv_heads query heads", default_factory=lambda f: f["heads"], gt=0
    )
    head_dim: int = field("width of a head", unit="channels", default_factory=lambda f: f["dim"] // f["heads"], gt=0)
    rope: Rope | None = field("rotary positions of queries and keys", default=None)
    bias: bool = field("biases in the query, key and value projections", default=False)
    out_bias: bool = field("a bias in the output projection", default=False)
    qk_norm: Literal["head", "full"] | None = field(
        "norm of queries and keys: per head, or over the whole projection", default=None
    )
    norm: Norm = field("the kind of norm that qk_norm uses", inherit="norm")
    window: int | None = field("attend only to the last tokens, this one included", unit="tokens", default=None, gt=0)
    sinks: bool = field("one learned logit per head that takes attention mass and gives no value", default=False)
    clip: float | None = field("clamp queries, keys and values to [-clip, clip] after projection", default=None, gt=0)
    scale: float = field("factor on the attention logits", default_factory=lambda f: f["head_dim"] ** -0.5, gt=0)

    def problems(self) -> Iterator[Problem]:
        if self.heads % self.kv_heads:
            yield Problem(
                fields=("kv_heads", "heads"), message=f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}"
            )
        if self.rope is None:
            return
        turned = getattr(self.rope, "dim", None)
        if turned is None and self.head_dim % 2:
            yield Problem(
                fields=("head_dim", "rope"),
                message=f"head_dim = {self.head_dim} channels do not form pairs, which the rope rotates",
                help="take an even `head_dim`, or rotate fewer channels: `rope { dim = ... }`",
            )
        elif turned is not None and turned > self.head_dim:
            yield Problem(
                fields=("rope.dim", "head_dim"),
                message=f"the rope rotates {turned} channels, but head_dim is {self.head_dim}",
            )

    def about(self) -> str:
        seen = f" over the last {self.window:,} tokens" if self.window else ""
        sinks = ", with a sink of each head that takes mass and gives no value" if self.sinks else ""
        more = f"\n\nAttention{seen}{sinks}." if seen or sinks else ""
        return super().about() + more

    def tiny(self) -> dict[str, Any]:
        kv_heads = min(self.kv_heads, 2)
        group = min(self.heads // self.kv_heads, 2)
        return {
            "kv_heads": kv_heads,
            "heads": kv_heads * group,
            "head_dim": 32,
            "window": self.window and min(self.window, 16),
            "scale": self.scale * (self.head_dim / 32) ** 0.5,
        }

    def build(self, g: Builder, x: Value) -> Value:
        q = self.project(g, "q", x, self.heads)
        k = self.project(g, "k", x, self.kv_heads)
        v = self.project(g, "v", x, self.kv_heads, norm=False)
        if self.rope is not None:
            q = self.rope.build(g, q)
            k = self.rope.build(g, k)
        keys = self.remember(g, "keys", k)
        values = self.remember(g, "values", v)
        sinks = g.param("sinks", (self.heads,), role="scale", init="zeros") if self.sinks else None
        out = g.attend(q, keys, values, g.time, sinks, scale=self.scale, window=self.window)
        return g.linear("o_proj", g.flatten(out), out=self.dim, bias=self.out_bias, role="output")

    def project(self, g: Builder, name: str, x: Value, heads: int, *, norm: bool = True) -> Value:
        """Heads of queries, keys or values [B, S, heads, head_dim]."""
        x = g.linear(f"{name}_proj", x, out=heads * self.head_dim, bias=self.bias)
        if norm and self.qk_norm == "full":
            x = self.norm.build(g, x, f"{name}_norm")
        if self.clip is not None:
            x = g.clamp(x, low=-self.clip, high=self.clip)
        x = g.unflatten(x, sizes=(heads, self.head_dim))
        if norm and self.qk_norm == "head":
            x = self.norm.build(g, x, f"{name}_norm")
        return x

    def remember(self, g: Builder, name: str, x: Value) -> Value:
        """Every row a query may need: all tokens so far, or those in the window."""
        shape = (self.kv_heads, self.head_dim)
        if self.window is None:
            return g.append(x, g.state(name, Table(every=1, shape=shape)), g.time)
        return g.recall(x, g.state(name, Ring(keep=self.window - 1, shape=shape)), g.time, keep=self.window - 1)
