"""Native sparse attention: compressed entries, chosen blocks and a window, each with keys and values of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from archc.ops import Ring, Table
from archc.schema import Attention, Doubt, Problem, Rope, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Nsa(Attention):
    """Native sparse attention: compressed entries, chosen blocks and a window (Yuan et al. 2025, arXiv:2502.11089).

    Every branch has keys and values of its own; gates made of the input weigh what the three give.
    """

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    heads: int = field("query heads", gt=0)
    kv_heads: int = field("key-value heads; the query heads of one choose blocks together", gt=0)
    head_dim: int = field("width of a head's query and key", unit="channels", gt=0)
    v_dim: int = field("width of a head's value", unit="channels", default_factory=lambda f: f["head_dim"], gt=0)
    compress_block: int = field("tokens that make an entry", unit="tokens", default=32, gt=0)
    stride: int = field("tokens from one entry's first to the next one's", unit="tokens", default=16, gt=0)
    compress_hidden: int = field(
        "hidden channels of the two maps that make an entry's key and value of its tokens' ones",
        unit="channels",
        default_factory=lambda f: f["head_dim"],
        gt=0,
    )
    select_block: int = field("tokens of a block that is chosen as a whole", unit="tokens", default=64, gt=0)
    blocks: int = field("blocks that a token attends to, those that it always does included", default=16, gt=0)
    initial: int = field("first blocks of a sequence that are always attended to", default=1, ge=0)
    local: int = field("last blocks that are always attended to, the token's own included", default=2, gt=0)
    window: int = field("attend to the last tokens, this one included", unit="tokens", default=512, gt=0)
    mapping: Literal["overlap", "minus", "plus"] = field(
        "entries that a block's score sums: those over it, or by the signs of equation 9 (minus) or of ports (plus)",
        default="overlap",
    )
    gates: Literal["head", "shared"] = field(
        "whether every head has gates of its own, or all share them", default="head"
    )
    gate_hidden: int | None = field(
        "hidden channels of the map that makes gates of the input; none: it is linear",
        unit="channels",
        default_factory=lambda f: f["head_dim"],
        gt=0,
    )
    rope: Rope | None = field("rotary positions of queries, keys, and entries at their first token", default=None)
    scale: float = field("factor on the attention logits", default_factory=lambda f: f["head_dim"] ** -0.5, gt=0)

    def problems(self) -> Iterator[Problem]:
        if self.heads % self.kv_heads:
            yield Problem(
                fields=("kv_heads", "heads"), message=f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}"
            )
        for name in ("compress_block", "select_block"):
            if (tokens := getattr(self, name)) % self.stride:
                yield Problem(
                    fields=("stride", name),
                    message=f"stride = {self.stride} does not divide {name} = {tokens}",
                    help="a block's score sums whole entries: both blocks are multiples of the stride",
                )
        if self.compress_block > self.select_block:
            yield Problem(
                fields=("compress_block", "select_block"),
                message=f"an entry of compress_block = {self.compress_block} tokens is longer than select_block = "
                f"{self.select_block}",
                help="equation 9 scores blocks that are no shorter than entries",
            )
        if self.initial + self.local > self.blocks:
            yield Problem(
                fields=("blocks", "initial", "local"),
                message=f"blocks = {self.blocks} leaves no room for initial + local = {self.initial} + {self.local}",
                help="the blocks that are always attended to count among `blocks`",
            )

    def doubts(self, context: int) -> Iterator[Doubt]:
        if self.blocks * self.select_block >= context:
            yield Doubt(
                code="W0005",
                fields=("blocks", "select_block"),
                message=f"a token attends to {self.blocks} blocks of {self.select_block} tokens, but at context = "
                f"{context} there are {-(-context // self.select_block)}",
                help="all of them are chosen: choose fewer, or make them shorter",
            )

    def about(self) -> str:
        """With what each branch reads, and which heads choose together."""
        each = self.heads // self.kv_heads
        together = f"each {each} heads that share a key choose" if each > 1 else "each head chooses"
        gates = "every head" if self.gates == "head" else "all heads"
        entry = f"{self.compress_block} tokens" + (f" every {self.stride}" if self.stride < self.compress_block else "")
        return (
            f"Three branches with keys and values of their own, summed by gates of {gates} (Native Sparse Attention,"
            " arXiv:2502.11089, section 3).\n\n"
            f"Compressed: an entry of {entry}. Selected: by what entries weigh {together} {self.blocks} blocks of"
            f" {self.select_block} tokens, the first {self.initial} and the last {self.local} among them. Window: the"
            f" last {self.window} tokens."
        )

    def tiny(self) -> dict[str, Any]:
        kv_heads, group = min(self.kv_heads, 2), min(self.heads // self.kv_heads, 2)
        head_dim = min(self.head_dim, 32)
        stride = min(self.stride, 2)
        entry = stride * min(self.compress_block // self.stride, 2)
        return {
            "heads": kv_heads * group,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "v_dim": min(self.v_dim, 24),
            "stride": stride,
            "compress_block": entry,
            "compress_hidden": min(self.compress_hidden, 24),
            "select_block": max(entry, stride * min(self.select_block // self.stride, 2)),
            "blocks": self.initial + self.local + min(2, self.blocks - self.initial - self.local),
            "window": min(self.window, 12),
            "gate_hidden": self.gate_hidden and min(self.gate_hidden, 24),
            "scale": self.scale * (self.head_dim / head_dim) ** 0.5,
        }

    def build(self, g: Builder, x: Value) -> Value:
        q = self.turned(g, self.project(g, "q_proj", x, self.heads, self.head_dim))
        with g.component("compressor"):
            entry_keys, entry_values = g.call("compressor", "NsaCompressor", self.entries, x, doc=self.about_entries())
        compressed, picks = g.compressed_attention(
            q,
            entry_keys,
            entry_values,
            g.time,
            scale=self.scale,
            every=self.stride,
            size=self.compress_block,
            select=self.select_block,
            count=self.blocks,
            initial=self.initial,
            local=self.local,
            mapping=self.mapping,
        )
        keys, values = self.pair(g, "selected", x)
        keys = g.append(keys, g.state("selected_keys", Table(every=1, shape=_row(keys))), g.time)
        values = g.append(values, g.state("selected_values", Table(every=1, shape=_row(values))), g.time)
        selected = g.block_attention(q, keys, values, picks, g.time, scale=self.scale, size=self.select_block)
        keys, values = self.pair(g, "window", x)
        keys = self.recent(g, "window_keys", keys, self.window - 1)
        values = self.recent(g, "window_values", values, self.window - 1)
        near = g.attend(q, keys, values, g.time, scale=self.scale, window=self.window)
        gates = self.gate(g, x)
        to_compressed, to_selected, to_near = g.unbind(gates)
        out = g.unsqueeze(to_compressed, dim=-1) * compressed
        out = out + g.unsqueeze(to_selected, dim=-1) * selected
        out = out + g.unsqueeze(to_near, dim=-1) * near
        return g.linear("o_proj", g.flatten(out), out=self.dim, role="output")

    def entries(self, g: Builder, x: Value) -> tuple[Value, Value]:
        """Keys, rotated, and values of all blocks so far [B, T // stride, kv_heads, ...]."""
        keys = self.entry(g, "key", x, self.head_dim)
        if self.rope is not None:
            keys = self.rope.build(g, keys, every=self.stride, back=self.compress_block - self.stride)
        keys = g.append(keys, self.table(g, "keys", keys), g.time, every=self.stride)
        values = self.entry(g, "value", x, self.v_dim)
        values = g.append(values, self.table(g, "values", values), g.time, every=self.stride)
        return keys, values

    def entry(self, g: Builder, name: str, x: Value, width: int) -> Value:
        """One of every block of tokens that this call completes [B, S // stride, kv_heads, width]."""
        tokens = self.project(g, f"{name}_proj", x, self.kv_heads, width)
        tokens = self.recent(g, f"{name}_tokens", tokens, self.compress_block - 1)
        block = g.token_blocks(tokens, g.time, every=self.stride, size=self.compress_block)
        places = g.param(f"{name}_positions", (self.compress_block, width), role="bias", init="zeros")
        hidden = g.silu(g.linear(f"{name}_up", block + g.flatten(places), out=self.compress_hidden, role="pool"))
        return g.linear(f"{name}_down", hidden, out=width, role="pool")

    def recent(self, g: Builder, name: str, x: Value, keep: int) -> Value:
        """The last ``keep`` tokens, then the new ones."""
        return g.recall(x, g.state(name, Ring(keep=keep, shape=_row(x))), g.time, keep=keep)

    def table(self, g: Builder, name: str, x: Value) -> Value:
        """Where entries are kept."""
        return g.state(name, Table(every=self.stride, shape=_row(x)))

    def about_entries(self) -> str:
        """What the docstring of the compressor's class says."""
        return (
            f"One key and one value of {self.compress_block} tokens' own, every {self.stride} tokens, by a map with a"
            " learned offset for each place in the block (Native Sparse Attention, arXiv:2502.11089, equation 7)."
        )

    def pair(self, g: Builder, branch: str, x: Value) -> tuple[Value, Value]:
        """Keys, rotated, and values of a branch [B, S, kv_heads, ...]."""
        keys = self.turned(g, self.project(g, f"{branch}_k_proj", x, self.kv_heads, self.head_dim))
        return keys, self.project(g, f"{branch}_v_proj", x, self.kv_heads, self.v_dim)

    def gate(self, g: Builder, x: Value) -> Value:
        """What each branch is multiplied by, between 0 and 1: [B, S, heads or 1, 3]."""
        heads = self.heads if self.gates == "head" else 1
        if self.gate_hidden is not None:
            x = g.silu(g.linear("gate_up", x, out=self.gate_hidden))
        return g.sigmoid(g.unflatten(g.linear("gate_proj", x, out=3 * heads), sizes=(heads, 3)))

    def project(self, g: Builder, name: str, x: Value, heads: int, width: int) -> Value:
        """x in heads [B, S, heads, width]."""
        return g.unflatten(g.linear(name, x, out=heads * width), sizes=(heads, width))

    def turned(self, g: Builder, x: Value) -> Value:
        """Queries or keys at their positions."""
        return x if self.rope is None else self.rope.build(g, x)


def _row(x: Value) -> tuple[int, int]:
    """What a cache keeps of a token or entry x [B, n, heads, width]."""
    return x.type.fixed(-2), x.type.last
