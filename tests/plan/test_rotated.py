"""Layers that begin by leaving the one before compute what layers do that leave themselves, to the last bit."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

import archc
from archc.cost.count import count
from archc.plan import plan, shrink
from tests.built import built, randomise

MODELS = (
    "deepseek_v4_flash",
    "v4_as_predicted",
    "llama_3_1_8b",
    "deepseek_v3",
    "engram_27b",
    "mhc_3b",
)


@pytest.fixture(scope="module", params=[*MODELS, "hc", "single_pass", "post"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ModuleType]:
    amended: dict[str, Any] = {
        "hc": {"residual": "hc { streams = 3 }"},
        "single_pass": {"residual": "mhc { streams = 3, form = single_pass }"},
        "post": {"norm_placement": "post"},
    }
    name = request.param
    model = shrink(archc.load("deepseek_v3" if name in amended else name, set=amended.get(name, {})))
    folder = tmp_path_factory.mktemp(name)
    return built(model, folder / "plain"), built(model, folder / "rotated", rotated=True)


def pair(both: tuple[ModuleType, ModuleType], dtype: torch.dtype, **given: Any) -> list[Any]:
    models = []
    for module in both:
        model = module.Model(dtype=dtype, **given)
        randomise(model)
        models.append(model)
    return models


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients(both: tuple[ModuleType, ModuleType], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, both[0].Model.vocab, (2, 11))
    outs, grads = [], []
    for model in pair(both, dtype):
        out = model(ids, labels=ids, hidden_states=True)
        out.loss.backward()
        outs.append(out)
        grads.append({name: p.grad for name, p in model.named_parameters()})
    a, b = outs
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.loss, b.loss)
    assert len(a.hidden_states) == len(b.hidden_states)
    assert all(torch.equal(x, y) for x, y in zip(a.hidden_states, b.hidden_states, strict=True))
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert (grad is None) == (other is None), name
        if grad is not None:
            torch.testing.assert_close(grad, other, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-6, msg=name)


@pytest.mark.parametrize("recompute", ["selective", "full", "mhc"])
def test_recomputed(both: tuple[ModuleType, ModuleType], recompute: str) -> None:
    ids = torch.randint(0, both[0].Model.vocab, (2, 7), generator=torch.Generator().manual_seed(1))
    _, model = pair(both, torch.float32)
    _, again = pair(both, torch.float32, recompute=recompute)
    out, other = (m(ids, labels=ids, hidden_states=True) for m in (model, again))
    assert len(out.hidden_states) == len(other.hidden_states)
    assert all(torch.equal(x, y) for x, y in zip(out.hidden_states, other.hidden_states, strict=True))
    out.loss.backward()
    other.loss.backward()
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_decoding(both: tuple[ModuleType, ModuleType]) -> None:
    ids = torch.randint(0, both[0].Model.vocab, (1, 9), generator=torch.Generator().manual_seed(2))
    plain, rotated = pair(both, torch.float32)
    assert torch.equal(plain.generate(ids, max_new_tokens=6), rotated.generate(ids, max_new_tokens=6))


@pytest.mark.parametrize("name", MODELS)
def test_plans_differ_by_leaving_once_more(name: str) -> None:
    model = shrink(archc.load(name))
    graphs = [plan(model), plan(model, rotated=True)]
    assert [p.name for p in graphs[0].parameters()] == [p.name for p in graphs[1].parameters()]
    first, second = (count(model, graph, mode="prefill", batch=2, seq=16) for graph in graphs)
    streams, dim = getattr(model.residual, "streams", 0), model.dim
    assert (
        second.flops.executed.workload_total - first.flops.executed.workload_total
        == 2 * 16 * 2 * streams * streams * dim
    )
