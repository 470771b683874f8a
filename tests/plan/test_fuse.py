"""The pass that makes functions of row-local chains: same numbers and counts, and which chains come out."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from typing import Any

import pytest
import torch

from archc.api import package, planned
from archc.cost.count import count
from archc.emit.module import print_model
from archc.graph import Graph, Node, Scope
from archc.graph.interpreter import Interpreter
from archc.graph.torch_package import torch_package
from archc.graph.verify import verify
from archc.plan import plan
from archc.plan.functions import form
from archc.plan.groups import of_params
from archc.plan.passes.fuse import fuse
from archc.resolve import load_text
from archc.schema import Model
from tests.plan.test_agreement import LIBRARY, SPECS, model_of

NAMES = [*LIBRARY, *SPECS]
SPAN = 11


def functions(graph: Graph) -> list[Scope]:
    return [scope for scope, _ in graph.scopes() if scope.function]


def logits(graph: Graph, parameters: dict[str, Any], vocab: int) -> Any:
    runtime = import_module(f"{torch_package().__name__}.runtime.model")
    ids = torch.randint(vocab, (2, SPAN), generator=torch.Generator().manual_seed(0))
    return Interpreter(graph, parameters).run(ids, runtime.time_of(runtime.Rows.whole(ids), None, None))[0]


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> tuple[Model, Graph, Graph]:
    """A model, its graph, and that with functions."""
    model = model_of(request.param)
    return model, plan(model), fuse(plan(model))


Pair = tuple[Model, Graph, Graph]


def test_a_fused_graph_is_sound(pair: Pair) -> None:
    verify(pair[2])


@torch.no_grad()
def test_logits_are_the_same(pair: Pair) -> None:
    """To the last bit: the very same ops run."""
    model, graph, fused = pair
    generator = torch.Generator().manual_seed(1)
    parameters = {
        p.name: torch.zeros(p.spec.shape, dtype=torch.int64)
        if p.spec.dtype == "int"
        else torch.randn(p.spec.shape, generator=generator, dtype=torch.float64) / p.spec.shape[-1] ** 0.5
        for p in graph.parameters()
    }
    assert torch.equal(logits(graph, parameters, model.vocab), logits(fused, parameters, model.vocab))


def test_parameters_keep_their_names_and_order(pair: Pair) -> None:
    assert [p.name for p in pair[1].parameters()] == [p.name for p in pair[2].parameters()]


@pytest.mark.parametrize("name", ["layer_norm", "routed", "streams_of_the_paper", "deepseek_v4_flash"])
def test_modules_are_made_in_the_same_order(name: str) -> None:
    """States of optimisers go by it, and what a seed draws."""
    model = model_of(name)

    def constructors(graph: Graph) -> dict[str, str]:
        classes = [item for item in ast.parse(print_model(model, graph)[0]).body if isinstance(item, ast.ClassDef)]
        methods = [(c.name, f) for c in classes for f in c.body if isinstance(f, ast.FunctionDef)]
        return {name: ast.unparse(f) for name, f in methods if f.name == "__init__"}

    assert constructors(plan(model)) == constructors(fuse(plan(model))) == constructors(planned(model, "layers"))


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_counts_are_the_same(pair: Pair, mode: Any) -> None:
    """But for what training has in passing, of which a function forgets more."""
    model, graph, fused = pair
    want, got = (count(model, g, mode=mode).as_dict() for g in (graph, fused))
    for part in ("workspace", "step_peak"):
        passing = [report["memory"].pop(part) for report in (got, want)]
        assert None in passing or passing[0] <= passing[1]
    for report in (got, want):
        report["memory"]["per_device"] = {
            k: v for k, v in report["memory"]["per_device"].items() if k not in ("workspace", "total")
        }
    assert got == want


def test_every_node_is_there_once(pair: Pair) -> None:
    """None is lost, made twice, or run more often; views of parameters alone may be looked at from several places."""

    def nodes(graph: Graph) -> list[tuple[Any, ...]]:
        return sorted(
            (n.op.kind, str(n.outs), n.component, times)
            for n, times in graph.walk()
            if not (n.op.view and of_params(n))
        )

    assert nodes(pair[1]) == nodes(pair[2])


def test_functions_are_two_row_local_ops_or_more(pair: Pair) -> None:
    for function in functions(pair[2]):
        assert not list(function.scopes())[1:]
        works = [n for n in function.nodes() if not n.op.view and n.op.kind != "cast"]
        assert len(works) > 1
        assert all(n.op.row(*(v.type for v in n.ins)) and not n.op.effect and not n.op.varies for n in works)
        made = {v for n in function.nodes() for v in n.outs}
        assert set(function.args) == {v for n in function.nodes() for v in n.ins} - made
        assert function.returns
        assert set(function.returns) <= made


def test_effects_keep_their_order(pair: Pair) -> None:
    def effects(graph: Graph) -> list[str]:
        found = [n for scope in graph.root.scopes() for i in scope.items for n in ([i] if isinstance(i, Node) else ())]
        return [f"{n.op.kind} {n.name}" for n in found if n.op.effect or any(v.state for v in n.ins)]

    assert effects(pair[1]) == effects(pair[2])


# --- which chains come out -----------------------------------------------------------------------
SMALL = """arch 1
model small {
  vocab = 61, dim = 32, layers = 2, context = 90
  residual = RESIDUAL
  attention = gqa { heads = 4, head_dim = 16, qk_norm = head, rope = rope }
  ffn = swiglu { hidden = 48 }
}
"""


def names_of(residual: str, *, rotated: bool = True) -> dict[str, int]:
    """The functions of a small model with this residual drawer, with how often a forward calls them."""
    model = load_text(SMALL.replace("RESIDUAL", residual))[0]
    found: dict[str, int] = {}
    for scope, times in fuse(plan(model, rotated=rotated)).scopes():
        if scope.function:
            found[scope.function] = found.get(scope.function, 0) + times
    return found


HEADS = {"q_k_norm_rotate": 4}
"""Queries and keys of two layers, normed head by head and turned."""


@pytest.mark.parametrize(
    ("residual", "expected"),
    [
        ("add", {"add_norm": 4, "final_add_norm": 1}),
        ("mhc", {"mix_sinkhorn_collapse_norm": 4, "final_mix_collapse_norm": 1}),
        ("mhc { form = paper }", {"mix_sinkhorn_collapse_norm": 4, "final_mix_sum_norm": 1}),
        ("mhc { form = single_pass }", {"mix_collapse_sinkhorn_norm": 4, "final_mix_collapse_norm": 1}),
        ("hc", {"mix_collapse_norm": 4, "final_mix_sum_norm": 1}),
        ("hc { dynamic = false }", {"mix_collapse_norm": 4, "final_mix_sum_norm": 1}),
    ],
    ids=str,
)
def test_the_residual_drawer_decides_what_is_fused(residual: str, expected: dict[str, int]) -> None:
    """Whatever it is, leaving a sub-layer and entering the next is one kernel, as is the end of the model."""
    assert names_of(residual) == expected | HEADS


@pytest.mark.parametrize(
    "change",
    [
        ("residual = add", "residual = mhc"),
        ("swiglu { hidden = 48 }", "moe { experts = 8, hidden = 16, router = softmax { active = 2 } }"),
        ("layers = 2", "layers = 3"),
        ("vocab = 61", "vocab = 67"),
    ],
    ids=lambda pair: pair[1],
)
def test_names_of_functions_of_a_module_do_not_depend_on_the_others(change: tuple[str, str]) -> None:
    def of_attention(text: str) -> set[str]:
        graph = fuse(plan(load_text(text)[0], rotated=True))
        return {f.function for f in functions(graph) if f.parent and f.parent.cls == "GqaAttention"}

    text = SMALL.replace("RESIDUAL", "add")
    assert of_attention(text.replace(*change)) == of_attention(text) == {"q_k_norm_rotate"}


def test_a_function_has_one_name_and_a_name_one_form(pair: Pair) -> None:
    forms: dict[str, set[Any]] = {}
    for function in functions(pair[2]):
        forms.setdefault(function.function, set()).add(form(function))
    assert all(len(found) == 1 for found in forms.values())
    assert len(set.union(set(), *forms.values())) == len(forms)
    if pair[0].name in LIBRARY:
        assert not [name for name in forms if name[-1].isdigit()], "a number says nothing"


def test_functions_name_what_they_take_by_what_becomes_of_it() -> None:
    graph = fuse(plan(model_of("engram_27b"), rotated=True))
    gate = next(f for f in functions(graph) if "root" in f.function)
    assert [gate.hints[v] for v in gate.args] == ["keys", "streams", "value", "k_weight", "q_weight", "conv_norm"]


def test_bytes_of_functions_count_all_heads() -> None:
    """Four heads of 16 channels in bfloat16, read and written, and 8 angles with cos and sin in float32."""
    text = package(load_text(SMALL.replace("RESIDUAL", "add"))[0], fuse="layers")["plan.json"]
    assert json.loads(text)["functions"]["q_k_norm_rotate"] == {
        "bytes_per_token": 4 * 16 * 2 * 2 + 8 * 2 * 4,
        "bytes": 32,
    }
