"""The dtype pass: casts where declared needs meet, as nodes that types, cost and printer see."""

from __future__ import annotations

from archc.graph import Builder, Graph, Node, Stack, Value
from archc.graph.verify import verify
from archc.plan.passes.islands import islands


def streams(g: Builder) -> Value:
    """Two layers that mix four streams by float32 weights, nothing cast by hand."""

    def layer(key: int):
        def forward(g: Builder, x: Value) -> Value:
            flat = g.flatten(x)
            mix = g.sigmoid(g.project(flat, g.param("fn", (4, 24), dtype="fp32")))
            h = g.einsum(mix, x, spec="bsn,bsnd->bsd")
            y = g.linear("w", h, out=6)
            return g.unsqueeze(mix, dim=-1) * g.unsqueeze(y, dim=-2) + x

        return forward

    x = g.expand(g.embedding("embed", g.tokens, rows=11, dim=6), n=4)
    (x,) = g.stack("layers", [0, 0], layer, x)
    return g.flatten(x)


def planned() -> Graph:
    g = Builder("m")
    g.graph.root.returns = [g.call("model", "Backbone", streams, doc="Streams.")]
    graph = islands(g.graph)
    verify(graph)
    return graph


def layer_nodes(graph: Graph) -> list[Node]:
    stack = next(i for s in graph.root.scopes() for i in s.items if isinstance(i, Stack))
    return [n for n in stack.kinds[0].items if isinstance(n, Node)]


def test_products_have_operands_of_one_dtype() -> None:
    nodes = layer_nodes(planned())
    for node in nodes:
        if node.op.kind in ("project", "einsum"):
            assert {v.type.dtype for v in node.ins} == {"fp32"}
        if node.op.kind == "linear":
            assert {v.type.dtype for v in node.ins} == {"act"}


def test_a_value_is_cast_once_however_often_it_is_read() -> None:
    casts = [n for n in layer_nodes(planned()) if n.op.kind == "cast"]
    assert [(n.op.to, str(n.outs[0].type)) for n in casts] == [  # type: ignore[attr-defined]
        ("fp32", "[B, S, 24]"),
        ("fp32", "[B, S, 4, 6]"),
        ("act", "[B, S, 6]"),
        ("act", "[B, S, 4, 6]"),
    ]


def test_a_layer_hands_on_the_dtype_it_took() -> None:
    graph = planned()
    stack = next(i for s in graph.root.scopes() for i in s.items if isinstance(i, Stack))
    assert [v.type.dtype for v in stack.kinds[0].returns] == [v.type.dtype for v in stack.args] == ["act"]


def test_a_model_without_islands_stays_as_it_is() -> None:
    import archc
    from archc.plan import plan

    assert not [n for n, _ in plan(archc.load("llama_3_1_8b")).walk() if n.op.kind == "cast"]
