"""The pass that makes functions of experts: same numbers and counts, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archc.api import planned
from archc.cost.count import count
from archc.graph import Graph, Node, Scope
from archc.graph.verify import verify
from archc.plan import plan
from archc.plan.passes.mixtures import gate_of, is_mixture, mixtures
from archc.resolve import load_text
from archc.schema import Model
from tests.plan.test_agreement import model_of
from tests.plan.test_fuse import logits

TEXT = """arch 1
model small {
  vocab = 61, dim = 32, layers = 2, context = 90
  attention = gqa { heads = 4, head_dim = 16, rope = rope }
  ffn = moe {
    experts = 8, hidden = 24, activation = ACTIVATION, names = NAMES, bias = BIAS
    router = softmax { active = 2 }
  }
}
"""


def small(activation: str = "silu", names: str = "deepseek", bias: str = "false") -> Model:
    text = TEXT.replace("ACTIVATION", activation).replace("NAMES", names).replace("BIAS", bias)
    return load_text(text)[0]


def functions(graph: Graph) -> list[Scope]:
    return [s for s in graph.root.scopes() if s.function and is_mixture(s)]


@pytest.mark.parametrize(
    "model",
    [small(), small("gelu"), small("relu", "gpt_oss", "true"), small("glu { alpha = 1.702, clamp = 7.0 }", "gpt_oss")],
    ids=["silu", "gelu", "relu, by turns", "glu, by turns"],
)
@torch.no_grad()
def test_the_same_ops_run(model: Model) -> None:
    """To the last bit; parameters keep their order; counts are the same."""
    plain, graph = plan(model), planned(model, "modules")
    verify(graph)
    (function,) = functions(graph)
    assert function.function == "experts"
    assert [p.name for p in plain.parameters()] == [p.name for p in graph.parameters()]
    generator = torch.Generator().manual_seed(1)
    parameters: dict[str, Any] = {
        p.name: torch.randn(p.spec.shape, generator=generator, dtype=torch.float64) / p.spec.shape[-1] ** 0.5
        for p in plain.parameters()
    }
    assert torch.equal(logits(plain, parameters, model.vocab), logits(graph, parameters, model.vocab))
    for mode in ("prefill", "decode"):
        want, got = (count(model, g, mode=mode).as_dict() for g in (plain, graph))
        assert got == want


def test_layers_share_a_function() -> None:
    """Both kinds of layers of V4 have the same experts, those of multi-token prediction too."""
    found = functions(planned(model_of("deepseek_v4_flash"), "layers"))
    assert len(found) > 2
    assert {f.function for f in found} == {"experts"}


@pytest.mark.parametrize(
    ("model", "gate"),
    [
        (small(), {}),
        (small("glu { alpha = 1.702, clamp = 7.0, shift = 1.0 }"), {"limit": 7.0, "alpha": 1.702, "shift": 1.0}),
        (small("glu { clamp = 7.0 }", "gpt_oss"), {"by_turns": True, "limit": 7.0}),
        (small("gelu"), None),
        (small("relu"), None),
    ],
)
def test_what_opens_the_gate(model: Model, gate: dict[str, Any] | None) -> None:
    (function,) = functions(planned(model))
    assert gate_of(function) == gate


def test_what_is_read_elsewhere_stays() -> None:
    """Where something else reads rows on their way, there is no function."""
    graph = plan(small())
    scope = next(s for s in graph.root.scopes() if s.cls == "Experts")
    first = next(n for n in scope.nodes() if n.op.kind == "grouped_linear")
    scope.returns = [*scope.returns, first.outs[0]]
    reader = next(n for n in graph.root.nodes() if n.op.kind == "combine")
    outside = Node(reader.op, reader.ins, (), scope.parent or graph.root, None, reader.component)
    (scope.parent or graph.root).items.append(outside)
    assert not functions(mixtures(graph))
