"""The pass that takes attention to latent space: what it recognises, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archc.drawers.attention.gqa import Gqa
from archc.drawers.norm.rms import Rms
from archc.graph import Builder, Graph, Stack, Value
from archc.graph.verify import verify
from archc.ops import Ring, Table
from archc.plan.passes.absorb import absorb

HEADS, LATENT, NOPE, ROPE, V = 3, 8, 4, 2, 5


def entries(g: Builder, x: Value) -> Value:
    """A cached latent and shared channels of each token."""
    store = g.state("latents", Table(every=1, shape=(LATENT + ROPE,)))
    return g.append(g.linear("down", x, out=LATENT + ROPE), store, g.time)


def attention(g: Builder, x: Value, **changes: Any) -> Value:
    """Attention over an expanded latent; ``changes`` make it something else."""
    q = g.unflatten(g.linear("q", x, out=HEADS * (NOPE + ROPE)), sizes=(HEADS, NOPE + ROPE))
    latent, shared = g.split(changes.get("entries", entries)(g, x), sizes=(LATENT, ROPE))
    kv = g.linear("up", latent, out=HEADS * (NOPE + V), bias=changes.get("bias", False))
    first, values = g.split(g.unflatten(kv, sizes=(HEADS, NOPE + V)), sizes=(NOPE, V))
    shared = g.expand(shared, n=HEADS)
    keys = g.cat(shared, first) if changes.get("shared_first") else g.cat(first, shared)
    sinks = g.param("sinks", (HEADS,)) if changes.get("sinks") else None
    out = g.attend(q, keys, values, g.time, sinks, scale=0.3)
    y = g.linear("o", g.flatten(out), out=x.type.last)
    if "also" in changes:
        other = changes["also"](g, latent, keys, kv)  # one more attention, over its own keys and values
        other = g.unflatten(other, sizes=(1, 6))
        y = y + g.flatten(g.attend(g.unflatten(x, sizes=(1, 6)), other, other, g.time, scale=0.1))
    return y


def planned(forward: Callable[[Builder, Value], Value]) -> Graph:
    g = Builder("m")

    def backbone(g: Builder) -> Value:
        x = g.embedding("embed", g.tokens, rows=11, dim=6)
        (x,) = g.stack("layers", [0, 0], lambda key: lambda g, x: g.call("attn", "A", forward, x, slot=True), x)
        return x

    g.graph.root.returns = [g.call("model", "Backbone", backbone, doc="A case.")]
    graph = absorb(g.graph)
    verify(graph)
    return graph


def kinds(graph: Graph) -> list[str]:
    stack = next(i for s in graph.root.scopes() for i in s.items if isinstance(i, Stack))
    return [node.op.kind for node in stack.nodes()]


def test_attention_over_an_expanded_latent_becomes_one_op() -> None:
    graph = planned(attention)
    assert kinds(graph) == ["linear", "unflatten", "linear", "append", "latent_attend", "flatten", "linear"]
    (node,) = (n for n, _ in graph.walk() if n.op.kind == "latent_attend")
    weight = node.ins[2]
    assert weight.param is not None
    assert (weight.param.name, weight.shape) == ("up.weight", (HEADS * (NOPE + V), LATENT))
    assert (node.op.nope, node.op.scale, node.op.absorb) == (NOPE, 0.3, 8 * 9 // (16 - 9))  # type: ignore[attr-defined]
    assert [p.name for p in graph.parameters() if ".0." in p.name] == [
        f"model.layers.0.attn.{name}.weight" for name in ("q", "down", "up", "o")
    ]


def windowed(g: Builder, x: Value) -> Value:
    store = g.state("latents", Ring(keep=3, shape=(LATENT + ROPE,)))
    return g.recall(g.linear("down", x, out=LATENT + ROPE), store, g.time, keep=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": True},
        {"sinks": True},
        {"shared_first": True},
        {"entries": lambda g, x: g.linear("down", x, out=LATENT + ROPE)},
        {"also": lambda g, latent, keys, kv: g.linear("extra", latent, out=6)},
        {"also": lambda g, latent, keys, kv: g.linear("extra", kv, out=6)},
        {"also": lambda g, latent, keys, kv: g.linear("extra", g.flatten(keys), out=6)},
    ],
    ids=["bias", "sinks", "other order", "no cache", "latent read", "expansion read", "keys read"],
)
def test_anything_else_stays_as_it_is(changes: dict[str, Any]) -> None:
    found = kinds(planned(lambda g, x: attention(g, x, **changes)))
    assert "attend" in found
    assert "latent_attend" not in found


def test_attention_over_a_window_stays_as_it_is() -> None:
    def forward(g: Builder, x: Value) -> Value:
        q = g.unflatten(g.linear("q", x, out=HEADS * (NOPE + ROPE)), sizes=(HEADS, NOPE + ROPE))
        latent, shared = g.split(windowed(g, x), sizes=(LATENT, ROPE))
        kv = g.unflatten(g.linear("up", latent, out=HEADS * (NOPE + V)), sizes=(HEADS, NOPE + V))
        first, values = g.split(kv, sizes=(NOPE, V))
        out = g.attend(q, g.cat(first, g.expand(shared, n=HEADS)), values, g.time, scale=0.3, window=4)
        return g.linear("o", g.flatten(out), out=6)

    assert "attend" in kinds(planned(forward))


def test_plain_attention_stays_as_it_is() -> None:
    d = Gqa(dim=6, heads=2, kv_heads=1, head_dim=4, norm=Rms())
    assert "attend" in kinds(planned(d.build))
