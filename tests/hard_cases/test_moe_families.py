"""The mixture of every family against its block in transformers: names, layouts, results and gradients, in float64."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

import torch
from torch import Tensor
from transformers import DeepseekV3Config, GptOssConfig, MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from archc.drawers.activation.gelu_tanh import GeluTanh
from archc.drawers.activation.glu import Glu
from archc.drawers.activation.silu import Silu
from archc.drawers.ffn.moe import Moe
from archc.drawers.router.sigmoid import Sigmoid
from archc.drawers.router.softmax import Softmax
from tests.hard_cases.harness import Case, build

DIM, HIDDEN, EXPERTS, ACTIVE = 10, 7, 6, 3
"""Widths that divide nothing."""
VOCAB = 40
PREFIX = "model.layers.0.mlp."


@dataclass(frozen=True)
class Family:
    """A block of transformers, its config, and the drawer that says the same."""

    block: Callable[[Any], torch.nn.Module]
    config: Any
    drawer: Moe


def _drawer(**fields: Any) -> Moe:
    return Moe(**{"dim": DIM, "experts": EXPERTS, "hidden": HIDDEN, "activation": Silu(), **fields})


MIXTRAL: dict[str, Any] = {"hidden_size": DIM, "num_experts_per_tok": ACTIVE}
OTHERS: dict[str, Any] = {**MIXTRAL, "moe_intermediate_size": HIDDEN, "num_experts": EXPERTS}
FAMILIES = {
    "mixtral": Family(
        MixtralSparseMoeBlock,
        MixtralConfig(**MIXTRAL, intermediate_size=HIDDEN, num_local_experts=EXPERTS),
        _drawer(router=Softmax(active=ACTIVE, renormalise=True)),
    ),
    "qwen2_moe": Family(
        Qwen2MoeSparseMoeBlock,
        Qwen2MoeConfig(**OTHERS, shared_expert_intermediate_size=13, hidden_act="gelu_pytorch_tanh"),
        _drawer(
            router=Softmax(active=ACTIVE),
            shared=1,
            shared_hidden=13,
            shared_gate=True,
            names="qwen",
            activation=GeluTanh(),
        ),
    ),
    "qwen3_moe": Family(
        Qwen3MoeSparseMoeBlock,
        Qwen3MoeConfig(**OTHERS, norm_topk_prob=True),
        _drawer(router=Softmax(active=ACTIVE, renormalise=True)),
    ),
    "olmoe": Family(
        OlmoeSparseMoeBlock,
        OlmoeConfig(**MIXTRAL, intermediate_size=HIDDEN, num_experts=EXPERTS, norm_topk_prob=False),
        _drawer(router=Softmax(active=ACTIVE)),
    ),
    "deepseek_v3": Family(
        DeepseekV3MoE,
        DeepseekV3Config(
            hidden_size=DIM,
            moe_intermediate_size=HIDDEN,
            n_routed_experts=EXPERTS,
            n_shared_experts=2,
            num_experts_per_tok=2,
            n_group=3,
            topk_group=2,
            routed_scaling_factor=2.5,
        ),
        _drawer(router=Sigmoid(active=2, groups=3, keep_groups=2, scale=2.5), shared=2),
    ),
    "gpt_oss": Family(
        GptOssMLP,
        GptOssConfig(hidden_size=DIM, intermediate_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=ACTIVE),
        _drawer(
            router=Softmax(active=ACTIVE, topk_first=True, bias=True),
            bias=True,
            activation=Glu(alpha=1.702, shift=1.0, clamp=7.0),
            names="gpt_oss",
        ),
    ),
}


class Pair:
    """A block with random weights, and the graph of our drawer with the same."""

    def __init__(self, family: Family) -> None:
        family.config._experts_implementation = "eager"
        self.block: Any = family.block(family.config).double()
        r = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, t in (*self.block.named_parameters(), *self.block.named_buffers()):
                # Activations of several units, so that clamps and the bends of the activation are met
                t.copy_(torch.randn(t.shape, generator=r, dtype=torch.float64) * (0.3 if "bias" in name else 1.0))
        drawer = family.drawer
        graph = build(lambda g, x: g.call("mlp", "Moe", drawer.build, x, slot=True), dim=DIM, vocab=VOCAB)
        self.theirs = {PREFIX + n: t for n, t in (*self.block.named_parameters(), *self.block.named_buffers())}
        self.ours = {n: t.detach().clone().requires_grad_() for n, t in self.theirs.items()}
        table = 2 * torch.randn(VOCAB, DIM, dtype=torch.float64, generator=r)
        self.ours["model.embed.weight"] = table.clone().requires_grad_()
        self.table = table.requires_grad_()
        self.case = Case(graph, self.ours)
        self.tokens = torch.randint(VOCAB, (2, 19), generator=r)

    def whole(self) -> tuple[Tensor, Tensor]:
        """Ours and theirs: the block's result for the embedded tokens."""
        out = self.block(self.table[self.tokens])
        return self.case.run(self.tokens), (out[0] if isinstance(out, tuple) else out).view(2, 19, DIM)


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(FAMILIES[request.param])


def near(ours: Tensor | None, theirs: Tensor | None, what: str) -> None:
    """Equal to a few roundings of float32, in which routers of transformers compute whatever the dtype of the model."""
    assert ours is not None and theirs is not None, what
    assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max(), what


def test_names_and_shapes(pair: Pair) -> None:
    planned = {p.name: p.spec.shape for p in pair.case.graph.parameters()}
    assert planned.pop("model.embed.weight") == (VOCAB, DIM)
    assert planned == {n: tuple(t.shape) for n, t in pair.theirs.items()}


def test_results_and_gradients(pair: Pair) -> None:
    ours, theirs = pair.whole()
    near(ours, theirs, "the result")
    assert theirs.abs().max() > 1
    pull = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for out in (ours, theirs):
        (out * pull).sum().backward()
    near(pair.ours["model.embed.weight"].grad, pair.table.grad, "the gradient of x")
    for name, t in pair.block.named_parameters():
        near(pair.ours[PREFIX + name].grad, t.grad, name)


def test_experts_alone(pair: Pair) -> None:
    """The same rows, ids and weights in: nothing is rounded, so nothing may differ."""
    given: list[Tensor] = []
    pair.block.experts.register_forward_pre_hook(lambda _, args: given.extend(args))
    pair.whole()
    x, ids, weights = (t.detach() for t in given)
    weights = weights.double()
    leaves = [[t.clone().requires_grad_() for t in (x, weights)] for _ in range(2)]
    scope = next(s for s in pair.case.graph.root.scopes() if s.name == "experts")
    (rows, mix), (their_rows, their_mix) = leaves
    arguments = [rows[None], ids[None], mix[None]]
    (ours,) = pair.case.interpreter.call(scope, arguments, pair.tokens, None, prefix=PREFIX + "experts.")
    theirs = pair.block.experts(their_rows, ids, their_mix)
    torch.testing.assert_close(ours[0], theirs, rtol=1e-12, atol=1e-12)
    pull = torch.randn(theirs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    names = [n for n, _ in pair.block.experts.named_parameters()]
    got = torch.autograd.grad(ours[0], [rows, mix, *(pair.ours[f"{PREFIX}experts.{n}"] for n in names)], pull)
    want = torch.autograd.grad(theirs, [their_rows, their_mix, *pair.block.experts.parameters()], pull)
    for mine, their in zip(got, want, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-11, atol=1e-11)


def test_experts_that_no_token_chose_do_not_matter() -> None:
    """Not a number in their weights reaches neither the results nor a gradient."""
    pair = Pair(FAMILIES["gpt_oss"])
    with torch.no_grad():
        pair.ours[PREFIX + "router.bias"][[1, 4]] = -1e9  # never chosen
        for name, t in pair.ours.items():
            if ".experts." in name:
                t[[1, 4]] = float("nan")
    out = pair.case.run(pair.tokens)
    out.square().sum().backward()
    assert out.isfinite().all()
    for name, t in pair.ours.items():
        assert t.grad is not None and t.grad.isfinite().all(), name
        if ".experts." in name:
            assert not t.grad[[1, 4]].any() and t.grad.any()
