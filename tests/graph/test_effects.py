"""Ops with an effect: no results, printed as a statement, roots of the gradient where they are losses."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import archc
from archc.cost.count import Learning, node_cost
from archc.emit.classes import Classes
from archc.emit.flow import Flow
from archc.graph import Builder, BuildError, Graph, Value
from archc.graph.gradient import constants, learned, trained
from archc.graph.interpreter import Interpreter
from archc.graph.torch_package import torch_package
from archc.graph.verify import GraphError, verify
from archc.ops import OPS, Op, Ring, Workload
from archc.ops.loss import Loss
from archc.plan.passes import PASSES
from tests.routing.models import ACTIVE, SPEC, VOCAB

EFFECTS = {kind: op for kind, op in OPS.items() if op.effect}
LOSSES = {kind for kind, op in EFFECTS.items() if issubclass(op, Loss)}


def graph_of(effect: Any, *, layers: int = 1) -> Graph:
    """Layers that give x + up(x); ``effect(g, x)`` is a module of its own in each, whose results nobody reads."""
    g = Builder("case")

    def layer(g: Builder, x: Value) -> Value:
        g.call("probe", "Probe", effect, x)
        return x + g.linear("up", x, out=6)

    def backbone(g: Builder) -> Value:
        x = g.embedding("embed", g.tokens, rows=VOCAB, dim=6)
        (x,) = g.stack("layers", range(layers), lambda _: layer, x)
        return x

    g.graph.root.returns = [g.call("model", "Backbone", backbone)]
    graph = g.graph
    for run in PASSES:
        graph = run(graph)
    verify(graph)
    return graph


def balance(g: Builder, x: Value) -> Value:
    scores = g.softmax(g.linear("probe", x, out=4))
    ids = g.topk(scores, k=2)
    g.sequence_balance(scores, ids, g.time, weight=0.5)
    return ids


def loads(g: Builder, x: Value) -> Value:
    ids = g.topk(g.linear("probe", x, out=4), k=2)
    bias = g.param("bias", (4,), role="bias", init="zeros", buffer=True)
    g.count_loads(bias, ids, rate=0.1)
    return ids


def index(g: Builder, x: Value) -> Value:
    """One key-value head without a window to speak of, whose index learns from constants."""
    weight = g.param("mix", (6, 6))
    fixed = g.detach(x)
    queries = g.unflatten(g.linear("index_q", fixed, out=6), sizes=(3, 2))
    keys, weights = g.linear("index_k", g.rms_norm(None, fixed, eps=1e-6), out=2), g.linear("index_w", x, out=3)
    q = g.unflatten(g.project(x, weight), sizes=(2, 3))
    entries = g.linear("entries", x, out=3)
    picks = g.index_topk(queries, keys, weights, g.time, k=2)
    recent = g.recall(entries, g.state("window", Ring(keep=0, shape=(3,))), g.time, keep=0)
    _, lse = g.sparse_attention(q, recent, g.time, entries, picks, scale=1.0, window=1, sink=False, lse=True)
    g.index_divergence(queries, keys, weights, q, entries, lse, g.time, picks, weight=2.0, scale=1.0)
    return picks


def test_there_are_effects() -> None:
    assert {"sequence_balance", "batch_balance", "index_divergence", "depth"} == LOSSES
    assert EFFECTS.keys() - LOSSES == {"count_loads", "record"}


def test_a_loss_pulls_gradients_and_a_count_does_not() -> None:
    """Of what computes choices nothing learns."""
    for build, learns in ((balance, True), (loads, False)):
        graph = graph_of(build)
        names = {p.name for p in graph.parameters() if p.value in learned(graph)}
        assert ("model.layers.0.probe.probe.weight" in names) == learns
        assert {"model.embed.weight", "model.layers.0.up.weight"} <= names
        kinds = {node.op.kind for node in trained(graph)}
        assert ("softmax" in kinds) == learns
        assert not {"topk", "count_loads"} & kinds


def test_the_index_loss_teaches_the_scores_and_nothing_else() -> None:
    """Attention is a constant to it, and a choice passes no gradient on; what is detached stays as it is."""
    graph = graph_of(index)
    graph.root.returns = []
    prefix = "model.layers.0.probe."
    names = {p.name.removeprefix(prefix) for p in graph.parameters() if p.value in learned(graph)}
    assert names == {
        "index_q.weight",
        "index_k.weight",
        "index_w.weight",
        "model.embed.weight",
        "model.layers.0.up.weight",
    }
    kinds = {node.op.kind for node in trained(graph)}
    assert not {"detach", "index_topk", "sparse_attention", "project", "recall"} & kinds
    (fixed,) = (node for node, _ in graph.walk() if node.op.kind == "detach")
    (normed,) = (node for node, _ in graph.walk() if node.op.kind == "rms_norm")
    assert constants(graph) == {*fixed.outs, *normed.outs}
    assert normed not in trained(graph)


def test_a_product_with_a_constant_has_one_gradient_less_to_compute() -> None:
    graph = graph_of(index)
    w = Workload(batch=2, new=5)
    learns = Learning(graph, w)
    for name, parts in (("index_q", 1), ("index_k", 1), ("index_w", 2), ("entries", 0), ("up", 2)):
        (node,) = (node for node, _ in graph.walk() if node.name == name)
        cost = node_cost(node, w)
        assert learns.backward(node, cost) == (parts * cost.useful, parts * cost.executed), name


def test_a_loss_pulls_gradients_where_the_results_are_unread() -> None:
    """A layer after which nothing of the stack is read: what is before it learns all the same."""
    graph = graph_of(balance, layers=2)
    graph.root.returns = []
    learns = {p.name for p in graph.parameters() if p.value in learned(graph)}
    assert {"model.embed.weight", "model.layers.0.up.weight", "model.layers.1.probe.probe.weight"} <= learns


def test_an_effect_returns_nothing_and_names_nothing() -> None:
    given = []

    def build(g: Builder, x: Value) -> Value:
        scores = g.softmax(g.linear("probe", x, out=4))
        given.append(g.sequence_balance(scores, g.topk(scores, k=2), g.time, weight=0.5))
        return x

    graph = graph_of(build)
    assert given == [None]
    (node,) = (node for node, _ in graph.walk() if node.op.effect)
    assert node.outs == ()


def test_a_module_with_nothing_but_effects_is_called() -> None:
    graph = graph_of(loads)
    texts = {c.name: c.text for c in Classes(graph, Flow(graph), frozenset()).classes.values()}
    assert "    def forward(self, x: Tensor, step: Step) -> None:" in texts["Probe"]
    assert texts["Probe"].endswith("\n        step.count_loads(self.bias, ids, rate=0.1)")
    assert "\n        self.probe(x, step)\n" in texts["Layer"]


def test_the_interpreter_keeps_what_effects_leave() -> None:
    """Once for each layer, in the order in which they run."""
    graph = graph_of(loads, layers=3)
    r = torch.Generator().manual_seed(0)
    parameters = {p.name: torch.randn(p.spec.shape, generator=r, dtype=torch.float64) for p in graph.parameters()}
    interpreter = Interpreter(graph, parameters)
    cls = import_module(f"{torch_package().__name__}.runtime.time").Time
    interpreter.run(
        torch.randint(VOCAB, (2, 5), generator=r),
        cls(
            first=torch.zeros(2, dtype=torch.int64),
            count=torch.tensor([5, 3]),
            positions=torch.arange(5).expand(2, -1),
            past=0,
            new=5,
            cached=False,
            aligned=True,
            full=False,
        ),
    )
    left = interpreter.step.effects.loads
    assert [load.bias is parameters[f"model.layers.{i}.probe.bias"] for i, load in enumerate(left)] == [True] * 3
    assert [int(load.count.sum()) for load in left] == [8 * 2] * 3


def index_operands(g: Builder, x: Value, *, keys: int = 2, heads: int = 3, entry: int = 3, of: int = 2) -> list[Value]:
    """Operands of the index loss, one of which may not fit."""
    queries, q = g.unflatten(x, sizes=(3, 2)), g.unflatten(x, sizes=(2, 3))
    far = g.linear("far", x, out=entry)
    return [queries, g.linear("k", x, out=keys), g.linear("w", x, out=heads), q, far, g.linear("m", x, out=of), g.time]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda g, x: g.sequence_balance(x, g.topk(g.flatten(g.unsqueeze(x, dim=-2)), k=7), g.time, weight=1.0),
            "of 6",
        ),
        (lambda g, x: g.batch_balance(g.unsqueeze(x, dim=-1), g.topk(x, k=2), g.time, weight=1.0), "balances scores"),
        (lambda g, x: g.index_divergence(*index_operands(g, x, keys=3), weight=1.0, scale=1.0), "have 2 channels"),
        (lambda g, x: g.index_divergence(*index_operands(g, x, heads=2), weight=1.0, scale=1.0), "weights for"),
        (lambda g, x: g.index_divergence(*index_operands(g, x, entry=4), weight=1.0, scale=1.0), "have 3 channels"),
        (lambda g, x: g.index_divergence(*index_operands(g, x, of=1), weight=1.0, scale=1.0), "log-sum-exp"),
        (lambda g, x: g.count_loads(g.param("b", (2, 3)), g.topk(x, k=2), rate=1.0), "counts choices"),
        (lambda g, x: g.count_loads(g.param("b", (1,)), g.topk(x, k=2), rate=1.0), "counts choices"),
    ],
)
def test_shapes_are_checked(build: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        graph_of(build)


def test_the_verifier_knows_effects() -> None:
    graph = graph_of(balance)
    (node,) = (node for node, _ in graph.walk() if node.op.effect)
    node.outs = (replace(node.ins[0]),)
    with pytest.raises(GraphError, match="its rule gives"):
        verify(graph)
    node.outs = ()
    del node.ins[0].node.scope.items[0]  # type: ignore[union-attr]
    with pytest.raises(GraphError, match="before it is made"):
        verify(graph)


def test_an_op_with_results_is_no_effect() -> None:
    class Wrong(Op, abstract=True):
        """Claims both."""

        kind = "wrong"
        effect = True

    graph = graph_of(balance)
    (node,) = (node for node, _ in graph.walk() if node.op.effect)
    node.op = Wrong()
    with pytest.raises(GraphError, match="either results or an effect"):
        verify(graph)


def test_effects_cost_nothing_without_training() -> None:
    graph = graph_of(balance)
    (node,) = (node for node, _ in graph.walk() if node.op.effect)
    assert node_cost(node, Workload(batch=1, new=8)).read == 8 * (4 * 4 + 2 * 8)
    assert node_cost(node, Workload(batch=1, new=8, cached=True)).read == 0


def test_printed_effects_fit_the_step_and_satisfy_its_tools(tmp_path: Path) -> None:
    """Each of them, and no other call of the step but for what layers record, remember and run again."""
    routers = [
        f"sigmoid {{ active = {ACTIVE}, balance_weight = 1e-4 }}",
        f"softmax {{ active = {ACTIVE}, balance = batch, balance_weight = 0.01 }}",
    ]
    ffn = "\n  ".join(
        f"ffn {name} = moe {{ experts = 8, hidden = 8, router = {router} }}"
        for name, router in zip("ab", routers, strict=True)
    )
    (tmp_path / "routed.arch").write_text(
        SPEC.format(vocab=VOCAB, ffn=ffn, more="schedule { ffn = [a, b] }", attention="")
    )
    folder = archc.build(archc.load(tmp_path / "routed.arch"), tmp_path)
    step = import_module(f"{torch_package().__name__}.runtime.step").StepBase
    found = set()
    for node in ast.walk(ast.parse((folder / "model.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("step."):
            assert isinstance(node.func, ast.Attribute)
            found.add(node.func.attr)
            signature = inspect.signature(getattr(step, node.func.attr))
            signature.bind(None, *node.args, **{str(k.arg): k.value for k in node.keywords})
    assert found == {"record", "regions", "state", "add_loss", "count_loads"}
    for tool in (
        ("ruff", "check", "--isolated", "--select", "E,F,I,UP,B,W", "--line-length", "120"),
        ("pyright", "--pythonpath", sys.executable),
    ):
        run = subprocess.run(
            [sys.executable, "-m", *tool, str(folder / "model.py")], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout
