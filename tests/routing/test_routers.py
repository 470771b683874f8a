"""Routers: choices and weights token by token, and those of transformers, with their gradients."""

from __future__ import annotations

import math
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archc.drawers.router.hash import Hash
from archc.drawers.router.sigmoid import Sigmoid
from archc.drawers.router.softmax import Softmax
from archc.drawers.router.sqrtsoftplus import SqrtSoftplus
from archc.graph import Builder
from archc.graph.interpreter import Interpreter
from archc.graph.verify import verify
from archc.plan.passes import PASSES
from archc.schema import Router
from tests.oracles.routing import Choice, Routing

torch.set_num_threads(1)
DIM, TOKENS = 6, 40


def route(router: Router, x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Ids and weights [tokens, K] of x [tokens, DIM], by the interpreter; weights are named as in the router."""
    g = Builder("case")
    experts = len(weights["weight"])

    def backbone(g: Builder) -> Any:
        x = g.embedding("embed", g.tokens, rows=len(rows), dim=DIM)
        return g.call("gate", "Router", lambda g, x: router.build(g, x, experts), x)

    rows = x
    ids, chosen = g.call("model", "Backbone", backbone)
    g.graph.root.returns = [ids, chosen]
    graph = g.graph
    for run in PASSES:
        graph = run(graph)
    verify(graph)
    named = {f"model.gate.{name}": value for name, value in weights.items()}
    tokens = torch.arange(len(x))[None]
    time = SimpleNamespace(valid=torch.ones_like(tokens, dtype=torch.bool), starts=None)
    ids, chosen = Interpreter(graph, {"model.embed.weight": x, **named}).run(tokens, time)
    return ids[0], chosen[0]


@st.composite
def routings(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """The number of experts, and the fields that all routers have."""
    groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    keep = draw(st.integers(1, groups))
    active = draw(st.integers(1, keep * size))
    fields = {"active": active, "groups": groups, "keep_groups": keep, "scale": draw(st.sampled_from([1.0, 2.5]))}
    return groups * size, fields


def weights_of(experts: int, seed: int, *, small: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias; small whole numbers make many ties."""
    r = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        if small:
            return torch.randint(-1, 2, shape, generator=r).double()
        return torch.randn(shape, dtype=torch.float64, generator=r)

    return some(TOKENS, DIM), some(experts, DIM), some(experts) * (1.0 if small else 0.3)


def check(got: tuple[Tensor, Tensor], want: list[Choice]) -> None:
    ids, weights = got
    assert ids.tolist() == [chosen for chosen, _ in want]
    np.testing.assert_allclose(weights.numpy(), [values for _, values in want], rtol=1e-12)


laws = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 1 << 30)


@laws
@given(routing=routings(), renormalise=st.booleans(), bias=st.booleans(), small=st.booleans(), seed=seeds)
def test_softmax(routing: tuple[int, dict[str, Any]], *, renormalise: bool, bias: bool, small: bool, seed: int) -> None:
    experts, fields = routing
    x, weight, added = weights_of(experts, seed, small=small)
    parameters = {"weight": weight} | ({"bias": added} if bias else {})
    logits = (x @ weight.T + (added if bias else 0)).numpy()
    oracle = Routing(renormalise=renormalise, **fields)
    router = Softmax(renormalise=renormalise, bias=bias, **fields)
    check(route(router, x, parameters), [oracle.probable(row) for row in logits])
    oracle = Routing(**fields)
    first = Softmax(topk_first=True, bias=bias, **fields)
    check(route(first, x, parameters), [oracle.among_best(row) for row in logits])


@laws
@given(routing=routings(), renormalise=st.booleans(), small=st.booleans(), seed=seeds)
def test_sigmoid(routing: tuple[int, dict[str, Any]], *, renormalise: bool, small: bool, seed: int) -> None:
    experts, fields = routing
    x, weight, bias = weights_of(experts, seed, small=small)
    oracle = Routing(renormalise=renormalise, **fields)
    router = Sigmoid(renormalise=renormalise, **fields)
    got = route(router, x, {"weight": weight, "e_score_correction_bias": bias})
    check(got, [oracle.biased(row, bias.numpy()) for row in (x @ weight.T).numpy()])


@laws
@given(routing=routings(), renormalise=st.booleans(), small=st.booleans(), seed=seeds)
def test_sqrtsoftplus(routing: tuple[int, dict[str, Any]], *, renormalise: bool, small: bool, seed: int) -> None:
    experts, fields = routing
    x, weight, bias = weights_of(experts, seed, small=small)
    oracle = Routing(renormalise=renormalise, **fields)
    got = route(SqrtSoftplus(renormalise=renormalise, **fields), x, {"weight": weight, "e_score_correction_bias": bias})
    logits = (x @ weight.T).numpy()
    check(got, [oracle.biased(row, bias.numpy(), lambda z: np.sqrt(np.log1p(np.exp(z)))) for row in logits])


@laws
@given(experts=st.integers(1, 9), active=st.integers(1, 5), renormalise=st.booleans(), seed=seeds)
def test_hash(*, experts: int, active: int, renormalise: bool, seed: int) -> None:
    """Any table, one that names an expert twice included."""
    x, weight, _ = weights_of(experts, seed, small=False)
    table = torch.randint(experts, (TOKENS, active), generator=torch.Generator().manual_seed(seed))
    router = Hash(vocab=TOKENS, active=active, scale=1.5, renormalise=renormalise)
    oracle = Routing(active=active, scale=1.5, renormalise=renormalise)
    scores = np.sqrt(np.log1p(np.exp((x @ weight.T).numpy())))
    want = [(ids, oracle.weighed([row[e] for e in ids])) for ids, row in zip(table.tolist(), scores, strict=True)]
    check(route(router, x, {"weight": weight, "tid2eid": table}), want)


@pytest.mark.parametrize("router", ["sqrtsoftplus", "hash"])
def test_affinities_of_any_size_have_finite_gradients(router: str) -> None:
    """Logits of 100 either way in float32, experts that no logit favours among them."""
    x = torch.eye(DIM)[torch.arange(TOKENS) % DIM].requires_grad_()
    weight = (torch.tensor([-200.0, -100.0, -30.0, 0.0, 30.0, 100.0])[:, None].expand(6, DIM)).clone().requires_grad_()
    table = torch.tensor([[0, 1, 2]]).expand(TOKENS, 3)
    if router == "hash":
        _, weights = route(Hash(vocab=TOKENS, active=3), x, {"weight": weight, "tid2eid": table})
    else:
        bias = torch.tensor([50.0, 50.0, 50.0, 0.0, 0.0, 0.0])
        ids, weights = route(SqrtSoftplus(active=3), x, {"weight": weight, "e_score_correction_bias": bias})
        assert set(ids.unique().tolist()) == {0, 1, 2}
    assert weights.isfinite().all()
    assert weights.detach().sum(-1).tolist() == pytest.approx([1] * TOKENS)
    for slope in torch.autograd.grad((weights * torch.arange(3)).sum(), (x, weight)):
        assert slope.isfinite().all()


def test_ties_go_to_the_lowest_expert() -> None:
    x, weight = torch.randn(TOKENS, DIM), torch.zeros(8, DIM)
    for router in (Softmax(active=3), Softmax(active=3, topk_first=True), Softmax(active=3, groups=4, keep_groups=2)):
        ids, weights = route(router, x, {"weight": weight})
        assert ids.tolist() == [[0, 1, 2]] * TOKENS
        assert weights.unique().tolist() == pytest.approx([1 / 3 if router.topk_first else 1 / 8])
    level = torch.full((8,), 0.25)
    sigmoid = Sigmoid(active=3, groups=4, keep_groups=2)
    ids, _ = route(sigmoid, x, {"weight": weight, "e_score_correction_bias": level})
    assert ids.tolist() == [[0, 1, 2]] * TOKENS


def test_a_router_runs_in_float32_where_the_model_does_not() -> None:
    """Scores that bfloat16 cannot tell apart still choose the larger one."""
    x = torch.ones(1, DIM, dtype=torch.bfloat16)
    weight = torch.ones(4, DIM, dtype=torch.bfloat16)
    weight[2, 0] = 1.0078125  # the next number of bfloat16: the sum differs by 1/128, which a sum of 6 rounds away
    ids, weights = route(Softmax(active=1), x, {"weight": weight})
    assert ids.tolist() == [[2]]
    assert weights.dtype == torch.float32


# --- transformers --------------------------------------------------------------------------------
EXPERTS = 8
REFERENCES: dict[str, tuple[str, str, dict[str, Any], Softmax | Sigmoid]] = {
    "mixtral": ("mixtral", "Mixtral", {}, Softmax(active=3, renormalise=True)),
    "olmoe": ("olmoe", "Olmoe", {"norm_topk_prob": False}, Softmax(active=3)),
    "olmoe renormalised": ("olmoe", "Olmoe", {"norm_topk_prob": True}, Softmax(active=3, renormalise=True)),
    "qwen2_moe": ("qwen2_moe", "Qwen2Moe", {"norm_topk_prob": False}, Softmax(active=3)),
    "qwen3_moe": ("qwen3_moe", "Qwen3Moe", {"norm_topk_prob": True}, Softmax(active=3, renormalise=True)),
    "gpt_oss": ("gpt_oss", "GptOss", {}, Softmax(active=3, topk_first=True, bias=True)),
    "deepseek_v2": ("deepseek_v2", "DeepseekV2", {"topk_method": "greedy"}, Softmax(active=3, scale=1.7)),
    "deepseek_v2 groups": (
        "deepseek_v2",
        "DeepseekV2",
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        Softmax(active=3, groups=4, keep_groups=2, scale=1.7),
    ),
    "deepseek_v3": (
        "deepseek_v3",
        "DeepseekV3",
        {"norm_topk_prob": True, "n_group": 1, "topk_group": 1},
        Sigmoid(active=3, scale=1.7),
    ),
    "deepseek_v3 groups": (
        "deepseek_v3",
        "DeepseekV3",
        {"norm_topk_prob": True, "n_group": 4, "topk_group": 2},
        Sigmoid(active=3, groups=4, keep_groups=2, scale=1.7),
    ),
    "deepseek_v3 raw": (
        "deepseek_v3",
        "DeepseekV3",
        {"norm_topk_prob": False, "n_group": 2, "topk_group": 1},
        Sigmoid(active=3, groups=2, keep_groups=1, renormalise=False, scale=1.7),
    ),
    "deepseek_v4": ("deepseek_v4", "DeepseekV4", {"scoring_func": "sqrtsoftplus"}, SqrtSoftplus(active=3, scale=1.7)),
}


def reference(family: str, name: str, keywords: dict[str, Any]) -> tuple[nn.Module, dict[str, Tensor]]:
    """The router class of a family with random weights and biases, and these by name."""
    config = getattr(import_module(f"transformers.models.{family}"), f"{name}Config")(
        hidden_size=DIM,
        num_attention_heads=1,
        num_experts_per_tok=3,
        num_experts=EXPERTS,
        num_local_experts=EXPERTS,
        routed_scaling_factor=1.7,
        **keywords,
    )
    router = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), f"{name}TopKRouter", None)
    if router is None:
        router = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), f"{name}TopkRouter")
    module = router(config)
    r = torch.Generator().manual_seed(1)
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    with torch.no_grad():
        for p in tensors.values():
            p.copy_(torch.randn(p.shape, generator=r) * (0.3 if p.dim() == 1 else 1.0))
    return module, tensors


def dense(ids: Tensor, weights: Tensor) -> Tensor:
    """The weight of every expert, 0 where it is not chosen: families order the chosen ones differently."""
    return weights.new_zeros(len(ids), EXPERTS).scatter(-1, ids, weights)


@pytest.mark.parametrize("case", REFERENCES)
def test_routes_as_transformers(case: str) -> None:
    family, name, keywords, router = REFERENCES[case]
    module, tensors = reference(family, name, keywords)
    r = torch.Generator().manual_seed(2)
    x = torch.randn(TOKENS, DIM, generator=r, requires_grad=True)
    _, scores, indices = module(x)
    want = dense(indices, scores)
    ids, weights = route(router, x, tensors)
    got = dense(ids, weights)
    torch.testing.assert_close(got, want)
    free = Softmax(active=3) if isinstance(router, Softmax) else Sigmoid(active=3)
    if router.keep_groups < router.groups:  # the limit binds for some tokens, and not for all
        same = (route(free, x, tensors)[0].sort().values == ids.sort().values).all(-1)
        assert same.any() and not same.all()
    pull = torch.randn(want.shape, generator=r)
    learned = [x, *(p for p in tensors.values() if p.requires_grad)]
    assert len(learned) == (3 if router == REFERENCES["gpt_oss"][3] else 2)
    for mine, theirs in zip(
        torch.autograd.grad((got * pull).sum(), learned), torch.autograd.grad((want * pull).sum(), learned), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("repeated", [False, True])
def test_routes_by_the_table_as_transformers(repeated: bool) -> None:
    """A loaded table may name an expert twice: it counts twice, and so do its weights."""
    v4 = import_module("transformers.models.deepseek_v4.modeling_deepseek_v4")
    config = import_module("transformers.models.deepseek_v4").DeepseekV4Config(
        vocab_size=TOKENS, hidden_size=DIM, num_local_experts=EXPERTS, num_experts_per_tok=3, routed_scaling_factor=1.7
    )
    module = v4.DeepseekV4HashRouter(config)
    r = torch.Generator().manual_seed(3)
    with torch.no_grad():
        module.weight.copy_(torch.randn(EXPERTS, DIM, generator=r))
        module.tid2eid.copy_(torch.rand(TOKENS, EXPERTS, generator=r).argsort(-1)[:, :3])
        if repeated:
            module.tid2eid[:, 2] = module.tid2eid[:, 0]
    x = torch.randn(TOKENS, DIM, generator=r, requires_grad=True)
    _, scores, indices = module(x, torch.arange(TOKENS))
    ids, weights = route(
        Hash(vocab=TOKENS, active=3, scale=1.7), x, {"weight": module.weight, "tid2eid": module.tid2eid}
    )
    assert torch.equal(ids, indices)
    torch.testing.assert_close(weights, scores)
    pull = torch.randn(scores.shape, generator=r)
    learned = (x, module.weight)
    for mine, theirs in zip(
        torch.autograd.grad((weights * pull).sum(), learned),
        torch.autograd.grad((scores * pull).sum(), learned),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


# --- fields --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("router", "experts", "message"),
    [
        (Sigmoid(active=3, groups=3, keep_groups=2), 8, "groups = 3 does not divide experts = 8"),
        (
            Sigmoid(active=5, groups=4, keep_groups=2),
            8,
            "active = 5 is more than the 4 experts in keep_groups = 2 groups",
        ),
        (Softmax(active=9), 8, "active = 9 is more than the 8 experts"),
        (Softmax(active=8), 8, None),
        (Hash(vocab=9, active=3), 2, "active = 3 is more than the 2 experts"),
        (Hash(vocab=9, active=3), 3, None),
    ],
)
def test_a_router_knows_what_does_not_fit(router: Router, experts: int, message: str | None) -> None:
    assert [misfit.message for misfit in router.misfits(experts)] == ([] if message is None else [message])


def test_fields_that_contradict_each_other_are_problems() -> None:
    (problem,) = Sigmoid(active=2, groups=4, keep_groups=5).problems()
    assert problem.message == "keeps 5 of 4 groups"
    (problem,) = Softmax(active=2, topk_first=True, renormalise=True).problems()
    assert problem.fields == ("renormalise", "topk_first")
    assert not list(Softmax(active=2, groups=4, keep_groups=4).problems())


@pytest.mark.parametrize(("groups", "keep"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 4), (8, 1), (8, 7), (16, 8), (8, 8)])
def test_the_twin_of_a_router_keeps_a_limit_that_binds(groups: int, keep: int) -> None:
    router = Sigmoid(active=6, groups=groups, keep_groups=keep)
    tiny = router.model_copy(update=router.tiny())
    assert (tiny.keep_groups < tiny.groups) == (keep < groups)
    assert not list(tiny.misfits(8))
    assert math.isclose(tiny.scale, router.scale)
