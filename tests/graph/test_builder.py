"""The builder: names from the drawer's source, scopes, stacks, steps, states, and what it refuses."""

from __future__ import annotations

import pytest

from archc.graph import Builder, BuildError, Scope, Stack
from archc.graph.verify import GraphError, network, verify
from archc.ops import Ring, Table


def ids(g: Builder):
    return g.embedding("embed", g.tokens, rows=11, dim=6)


def named(scope: Scope) -> list[str | None]:
    return [scope.hints.get(n.outs[0]) for n in scope.nodes()]


def test_the_last_value_of_a_statement_gets_its_name():
    def build(g, x):
        q = g.unflatten(
            g.linear("q_proj", x, out=8),
            sizes=(2, 4),
        )
        y = g.flatten(q) * 2.0
        return g.linear("out", y, out=6)

    g = Builder("m")
    g.call("a", "A", build, ids(g))
    scope = next(g.graph.root.children())
    assert named(scope) == [None, "q", None, "y", None]


def test_a_helper_that_rebinds_its_parameter_refines_what_the_caller_names():
    def project(g, name, x):
        x = g.linear(name, x, out=6)
        x = g.sigmoid(x)
        return x

    def build(g, x):
        left = project(g, "left", x)
        right = project(g, "right", x)
        out = left + right
        return out

    g = Builder("m")
    g.call("a", "A", build, ids(g))
    assert named(next(g.graph.root.children())) == [None, "left", None, "right", "out"]


def test_a_helper_in_a_loop_names_each_round():
    def build(g, x):
        for i in range(3):
            x = g.sigmoid(g.linear(f"p{i}", x, out=6))
        return x

    g = Builder("m")
    g.call("a", "A", build, ids(g))
    assert named(next(g.graph.root.children())) == [None, "x"] * 3


def test_a_child_names_its_result_for_its_parent():
    def child(g, x):
        inner = g.sigmoid(x)
        return inner

    def build(g, x):
        y = g.call("c", "C", child, x)
        return g.call("d", "D", child, y)

    g = Builder("m")
    g.call("a", "A", build, ids(g))
    outer = next(g.graph.root.children())
    first, second = outer.children()
    assert outer.hints[first.returns[0]] == "y"
    assert outer.hints[second.returns[0]] == "inner"


def test_equal_layers_are_built_once_and_counted_often():
    built = []

    def layer(key):
        def forward(g, x):
            built.append(key)
            y = g.linear("w", x, out=6)
            return (x + y,)

        return forward

    def body(g):
        x = ids(g)
        (x,) = g.stack("layers", ["a", "b", "a", "a"], layer, x)
        return x

    g = Builder("m")
    x = g.call("model", "Backbone", body)
    g.graph.root.returns = [x]
    verify(g.graph)
    assert built == ["a", "b"]
    stack = next(i for i in next(g.graph.root.children()).items if isinstance(i, Stack))
    assert stack.schedule == (0, 1, 0, 0)
    times = [n for node, n in g.graph.walk() if node.op.kind == "linear"]
    assert times == [3, 1]
    names = [p.name for p in g.graph.parameters()]
    assert names == ["model.embed.weight", *(f"model.layers.{i}.w.weight" for i in range(4))]
    assert network(g.graph).number_of_nodes() == 6


def test_layers_must_hand_on_the_same_state():
    g = Builder("m")
    with pytest.raises(BuildError, match="layer kind 0 returns"):
        g.stack("layers", [1], lambda _: lambda g, x: (g.linear("w", x, out=5),), ids(g))


def test_steps_of_equal_settings_are_shared():
    g = Builder("m")
    a = g.step("rope", "rope_angles", g.time, dim=4, theta=1e4)
    b = g.step("rope", "rope_angles", g.time, dim=4, theta=1e4)
    c = g.step("rope", "rope_angles", g.time, dim=4, theta=1e6)
    assert a is b
    assert (a.step, c.step) == ("rope", "rope_2")


def test_states_of_nested_drawers_carry_their_name():
    def inner(g, x):
        return g.recall(x, g.state("tokens", Ring(keep=3, shape=(6,))), g.time, keep=3)

    def outer(g, x):
        g.call("compressor", "C", inner, x)
        return g.append(x, g.state("keys", Table(every=1, shape=(6,))), g.time)

    g = Builder("m")
    g.call("self_attn", "A", outer, ids(g), slot=True)
    names = [n for s in g.graph.root.scopes() for n in s.states]
    assert sorted(names) == ["compressor_tokens", "keys"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g, x: g.unflatten(x, sizes=(4, 2)), "a: unflatten: 4 x 2 is not 6"),
        (lambda g, x: g.split(x, sizes=(4, 1)), "4 \\+ 1 is not 6"),
        (lambda g, x: g.linear(None, x, out=3), "needs a name"),
        (lambda g, x: (g.linear("w", x, out=3), g.linear("w", x, out=3)), "declared twice"),
        (lambda g, x: g.swiglu(x, g.linear("w", x, out=3)), "swiglu of"),
        (lambda g, x: g.einsum(x, x, spec="bsd,bse->de"), None),
        (lambda g, x: g.einsum(x, g.param("p", (5, 2)), spec="bsd,dk->bsk"), "d is 6 and 5"),
        (lambda g, x: g.project(x, g.param("p", (2, 5))), "6 channels by a weight for 5"),
        (lambda g, x: x + g.param("p", (5,)), "\\+"),
        (
            lambda g, x: g.attend(
                g.unflatten(x, sizes=(3, 2)),
                g.unflatten(x, sizes=(2, 3)),
                g.unflatten(x, sizes=(2, 3)),
                g.time,
                scale=1.0,
            ),
            "queries have 2 channels, keys 3",
        ),
        (
            lambda g, x: g.rotate(x, g.step("rope", "rope_angles", g.time, dim=8, theta=1e4)),
            "rotates 8 channels of a head that has 6",
        ),
    ],
)
def test_shape_rules_name_place_and_numbers(build, message):
    g = Builder("m")
    if message is None:
        g.call("a", "A", build, ids(g))
        return
    with pytest.raises(BuildError, match=message):
        g.call("a", "A", build, ids(g))


def test_what_runs_again_has_the_same_parameters():
    g = Builder("m")
    x = ids(g)
    start = len(g.here.items)
    logits = g.call("head", "Head", lambda g, x: g.sigmoid(g.linear("w", x, out=3, bias=True)), x)
    with g.component("mtp", sole=True), g.ahead("mtp", 1, x) as scope:
        with g.component("attention"):
            other = g.linear("eh_proj", x, out=6)
        again = g.repeat(g.graph.root.items[start:-1], other, instead=x)[logits]
        scope.returns = [other, again]
    g.graph.root.returns = [logits]
    verify(g.graph)
    assert [p.name for p in g.graph.parameters()] == [
        "embed.weight",
        "head.w.weight",
        "head.w.bias",
        "mtp.eh_proj.weight",
    ]
    first, second = (n for n, _ in g.graph.walk() if n.name == "w")
    assert first.ins[1:] == second.ins[1:]
    assert second.ins[0] is other
    assert again.node is not None
    assert again.node.ins[0] is second.outs[0]
    assert {n.component for n in scope.nodes()} == set(scope.owners.values()) == {"mtp"}
    assert second not in {n for n, _ in g.graph.walk(labels=False)}
    assert first in {n for n, _ in g.graph.walk(labels=False)}


def test_what_keeps_state_cannot_run_again():
    def remember(g, x):
        return g.append(x, g.state("keys", Table(every=1, shape=(6,))), g.time)

    g = Builder("m")
    x = ids(g)
    g.call("a", "A", remember, x, slot=True)
    with pytest.raises(BuildError, match="keeps state cannot run a second time"):
        g.repeat(g.graph.root.items[-1:], x, instead=x)
    g.stack("layers", (0, 0), lambda key: lambda g, x: g.sigmoid(x), x)
    with pytest.raises(BuildError, match="layers and what keeps state"):
        g.repeat(g.graph.root.items[-1:], x, instead=x)


def test_unknown_op_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no op 'linnear'; there are .*linear"):
        Builder("m").linnear  # noqa: B018


def test_verifier_finds_a_value_read_before_it_is_made():
    g = Builder("m")
    x = g.call("a", "A", lambda g, x: g.sigmoid(g.sigmoid(x)), ids(g))
    g.graph.root.returns = [x]
    verify(g.graph)
    scope = next(g.graph.root.children())
    scope.items.reverse()
    with pytest.raises(GraphError, match="before it is made"):
        verify(g.graph)


def test_verifier_finds_types_that_do_not_follow():
    g = Builder("m")
    x = g.call("a", "A", lambda g, x: g.linear("w", x, out=4), ids(g))
    g.graph.root.returns = [x]
    x.type = ids(Builder("other")).type
    with pytest.raises(GraphError, match="its rule gives"):
        verify(g.graph)
