"""Losses that level the loads of experts: against loops, under padding and packing, and those of transformers."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.graph.torch_package import torch_package
from kernels.balance import batch_balance, batch_shares, sequence_balance
from tests.built import randomise
from tests.kernels_reference.clock import Rows, rows
from tests.oracles import routing
from tests.oracles.rows import sigmoid, softmax
from tests.routing.models import ACTIVE, EXPERTS, VOCAB, model, package, tokens, watched

torch.set_num_threads(1)
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 1 << 30)


# --- the equations -------------------------------------------------------------------------------
def time_of(clock: Rows) -> Any:
    """The clock as the `Time` of generated packages."""
    names = ("first", "count", "positions", "starts", "past", "new", "cached", "aligned", "full")
    cls = import_module(f"{torch_package().__name__}.runtime.time").Time
    return cls(**{name: getattr(clock, name) for name in names})


def case(clock: Rows, experts: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positive scores [B, S, E], and k different experts of each token [B, S, K]."""
    r = torch.Generator().manual_seed(seed)
    shape = (len(clock.pasts), clock.new, experts)
    return torch.rand(shape, dtype=torch.float64, generator=r) + 0.01, torch.rand(shape, generator=r).topk(k).indices


def sequences(clock: Rows) -> list[tuple[int, list[int]]]:
    """Row and columns of the tokens of every sequence."""
    found: dict[tuple[int, int], list[int]] = {}
    for b, j in clock.valid():
        found.setdefault((b, clock.start(b, clock.pasts[b] + j)), []).append(j)
    return [(b, columns) for (b, _), columns in found.items()]


@quick
@given(clock=rows(), experts=st.integers(1, 6), k=st.integers(1, 6), seed=seeds)
def test_sequence_balance(clock: Rows, experts: int, k: int, seed: int) -> None:
    scores, ids = case(clock, experts, min(k, experts), seed)
    got = sequence_balance(scores, ids, time_of(clock))
    each = [
        routing.sequence_balance(scores[b, columns].numpy(), ids[b, columns].tolist())
        for b, columns in sequences(clock)
    ]
    assert got.item() == pytest.approx(sum(each) / len(each), rel=1e-12)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: sequence_balance(s, ids, time_of(clock)), scores)


@quick
@given(clock=rows(), layers=st.integers(1, 3), experts=st.integers(1, 6), k=st.integers(1, 6), seed=seeds)
def test_batch_balance(clock: Rows, layers: int, experts: int, k: int, seed: int) -> None:
    cases = [case(clock, experts, min(k, experts), seed + layer) for layer in range(layers)]
    cases = [(scores.softmax(-1), ids) for scores, ids in cases]
    got = batch_balance(torch.stack([batch_shares(scores, ids, time_of(clock)) for scores, ids in cases]).sum(0))
    b, j = (torch.tensor(places) for places in zip(*clock.valid(), strict=True))
    want = routing.batch_balance([(scores[b, j].numpy(), ids[b, j].tolist()) for scores, ids in cases])
    assert got.item() == pytest.approx(want, rel=1e-12)
    scores, ids = cases[0]
    scores = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: batch_balance(batch_shares(s, ids, time_of(clock))), scores)


def test_even_loads_cost_least_and_one_expert_most() -> None:
    clock = time_of(Rows(pasts=(0,), counts=(8,), new=8, cached=False))
    even = torch.arange(16).view(1, 8, 2) % EXPERTS
    level = torch.full((1, 8, EXPERTS), 1.0 / EXPERTS)
    assert sequence_balance(level, even, clock).item() == pytest.approx(1)
    assert batch_balance(batch_shares(level, even, clock)).item() == pytest.approx(2)
    alone = torch.zeros(1, 8, 1, dtype=torch.int64)
    sure = torch.nn.functional.one_hot(alone[..., 0], EXPERTS).float()
    assert sequence_balance(sure, alone, clock).item() == pytest.approx(EXPERTS)
    assert batch_balance(batch_shares(sure, alone, clock)).item() == pytest.approx(EXPERTS)


def test_padding_alone_costs_nothing() -> None:
    clock = time_of(Rows(pasts=(0, 0), counts=(0, 0), new=3, cached=False))
    scores = torch.rand(2, 3, EXPERTS, requires_grad=True)
    ids = torch.zeros(2, 3, 2, dtype=torch.int64)
    for loss in (sequence_balance(scores, ids, clock), batch_balance(batch_shares(scores, ids, clock))):
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, scores)
        assert not gradient.any()


# --- in a model ----------------------------------------------------------------------------------
WEIGHT = 0.25
ROUTERS = {
    "sequence": f"softmax {{ active = {ACTIVE}, renormalise = true, balance_weight = {WEIGHT} }}",
    "batch": f"softmax {{ active = {ACTIVE}, balance = batch, balance_weight = {WEIGHT} }}",
    "topk_first": f"softmax {{ active = {ACTIVE}, topk_first = true, balance_weight = {WEIGHT} }}",
    "sigmoid": f"sigmoid {{ active = {ACTIVE}, balance_weight = {WEIGHT} }}",
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModuleType]:
    folder = tmp_path_factory.mktemp("losses")
    return {name: package(folder / name, router) for name, router in ROUTERS.items()}


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_model_reports_what_the_loops_say(modules: dict[str, ModuleType], kind: str) -> None:
    """Padding of two rows included; the total is the language loss and the weighted rest."""
    net, ids = model(modules[kind]), tokens(2, 13)
    counts = (13, 7)
    mask = torch.arange(13) < torch.tensor(counts)[:, None]
    with watched(net) as seen:
        out = net(ids, labels=ids, attention_mask=mask.long())
    assert len(seen) == 2
    of = sigmoid if kind == "sigmoid" else lambda z: np.array([softmax(row) for row in z])
    layers = [[(of(logits[b, :n].numpy()), ids[b, :n].tolist()) for b, n in enumerate(counts)] for logits, ids in seen]
    if kind == "batch":
        want = routing.batch_balance([part for parts in layers for part in parts])
    else:
        want = sum(routing.sequence_balance(*part) for parts in layers for part in parts) / 2
    assert out.losses.keys() == {"balance"}
    assert out.losses["balance"].item() == pytest.approx(want, rel=1e-9)
    assert out.loss.item() == pytest.approx(out.lm_loss.item() + WEIGHT * want, rel=1e-12)


def test_layers_of_other_weights_count_by_their_own(tmp_path: Path) -> None:
    routers = [f"softmax {{ active = {ACTIVE}, balance_weight = {weight} }}" for weight in (0.5, 2.0)]
    net, ids = model(package(tmp_path, *routers)), tokens(1, 9)
    with watched(net) as seen:
        out = net(ids, labels=ids)
    first, second = (routing.sequence_balance(logits[0].softmax(-1).numpy(), ids[0].tolist()) for logits, ids in seen)
    assert out.losses["balance"].item() == pytest.approx(first + second, rel=1e-9)
    assert out.loss.item() == pytest.approx(out.lm_loss.item() + 0.5 * first + 2.0 * second, rel=1e-9)


@pytest.mark.parametrize("kind", ROUTERS)
def test_nothing_is_evaluated_without_labels(
    modules: dict[str, ModuleType], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, ids = model(modules[kind]), tokens(2, 9)
    net(ids, labels=ids)
    source = import_module(type(net).__module__)
    name = "batch_shares" if kind == "batch" else "sequence_balance"
    monkeypatch.setattr(source, name, lambda *_: pytest.fail("evaluated"))
    assert net(ids).losses == {}
    with pytest.raises(pytest.fail.Exception, match="evaluated"):
        net(ids, labels=ids)


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_language_loss_alone_has_no_part_of_it(modules: dict[str, ModuleType], kind: str) -> None:
    net, ids = model(modules[kind]), tokens(2, 9)
    out = net(ids, labels=ids)
    learned = list(net.parameters())

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, learned, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(learned, found, strict=True)]

    whole, language, balance = map(gradients, (out.loss, out.lm_loss, out.losses["balance"]))
    for all_, one, other in zip(whole, language, balance, strict=True):
        torch.testing.assert_close(all_, one + WEIGHT * other)
    moved = {n for (n, _), g in zip(net.named_parameters(), balance, strict=True) if g.any()}
    assert {f"model.layers.{i}.mlp.gate.weight" for i in range(2)} <= moved
    assert not {"lm_head.weight", "model.layers.1.mlp.experts.down_proj"} & moved


@pytest.mark.parametrize("kind", ROUTERS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_the_side_of_padding_changes_nothing(modules: dict[str, ModuleType], kind: str, data: st.DataObject) -> None:
    net, ids = model(modules[kind]), tokens(3, 11, data.draw(seeds))
    counts = [data.draw(st.integers(1, 11)) for _ in ids]
    values = []
    for side in ("right", "left", "anywhere"):
        padded, mask = tokens(3, 15, 1), torch.zeros(3, 15, dtype=torch.int64)
        for row, n in enumerate(counts):
            places = {"right": list(range(n)), "left": list(range(15 - n, 15))}.get(side)
            columns = places or sorted(data.draw(st.permutations(range(15)))[:n])
            padded[row, columns], mask[row, columns] = ids[row, :n], 1
        values.append(net(padded, labels=padded, attention_mask=mask).losses["balance"].item())
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)
    if kind != "batch":
        alone = [net(ids[row : row + 1, :n], labels=ids[row : row + 1, :n]) for row, n in enumerate(counts)]
        assert values[0] == pytest.approx(sum(out.losses["balance"].item() for out in alone) / 3, rel=1e-9)


@pytest.mark.parametrize("kind", ROUTERS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_packed_sequences_count_each_as_if_alone(
    modules: dict[str, ModuleType], kind: str, data: st.DataObject
) -> None:
    """In the batch form, as rows of their own."""
    net = model(modules[kind])
    lengths = [data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)) for _ in range(2)]
    width = max(map(sum, lengths)) + 2
    ids, sequence_ids = tokens(2, width, data.draw(seeds)), torch.zeros(2, width, dtype=torch.int64)
    parts = []
    for row, sizes in enumerate(lengths):
        at = data.draw(st.integers(0, width - sum(sizes)))
        for i, n in enumerate(sizes, 1):
            sequence_ids[row, at : at + n] = i
            parts.append(ids[row, at : at + n])
            at += n
    got = net(ids, labels=ids, sequence_ids=sequence_ids).losses["balance"].item()
    if kind == "batch":
        apart, mask = torch.zeros(len(parts), 6, dtype=torch.int64), torch.zeros(len(parts), 6, dtype=torch.int64)
        for row, part in enumerate(parts):
            apart[row, : len(part)], mask[row, : len(part)] = part, 1
        want = net(apart, labels=apart, attention_mask=mask).losses["balance"].item()
    else:
        want = sum(net(part[None], labels=part[None]).losses["balance"].item() for part in parts) / len(parts)
    assert got == pytest.approx(want, rel=1e-9)


# --- transformers --------------------------------------------------------------------------------
FAMILIES = {
    "mixtral": ("Mixtral", {"num_local_experts": EXPERTS, "intermediate_size": 8}, "", "renormalise = true"),
    "olmoe": ("Olmoe", {"num_experts": EXPERTS, "intermediate_size": 8}, ", qk_norm = full", ""),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": EXPERTS, "moe_intermediate_size": 8, "norm_topk_prob": True, "head_dim": 8},
        ", head_dim = 8, qk_norm = head",
        "renormalise = true",
    ),
}


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_batch_form_is_that_of_transformers(family: str, padded: bool, tmp_path: Path) -> None:
    name, keywords, attention, router = FAMILIES[family]
    config = getattr(import_module(f"transformers.models.{family}"), f"{name}Config")(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts_per_tok=ACTIVE,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        router_aux_loss_coef=WEIGHT,
        rms_norm_eps=1e-5,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
        experts_implementation="eager",
        **keywords,
    )
    theirs = getattr(import_module(f"transformers.models.{family}"), f"{name}ForCausalLM")(config)
    randomise(theirs)
    routed = f"softmax {{ active = {ACTIVE}, balance = batch, balance_weight = {WEIGHT}, {router} }}"
    module = package(tmp_path, routed, attention=attention, more="norm = rms { eps = 1e-5 }")
    ours = module.Model()
    ours.load_state_dict(theirs.state_dict())
    ids = tokens(3, 17)
    mask = (torch.arange(17) >= torch.tensor([[0], [4], [9]])).long() if padded else torch.ones_like(ids)
    # Its shift would have padding predict the first token of a row.
    labels = ids.masked_fill(mask.cumsum(1) <= 1, -100)
    want = theirs(ids, attention_mask=mask, labels=labels, output_router_logits=True)
    got = ours(ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(got.losses["balance"], want.aux_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-5, atol=1e-5)
    got.losses["balance"].backward(retain_graph=True)
    want.aux_loss.backward(retain_graph=True)
    largest = max(p.grad.abs().max() for p in theirs.parameters() if p.grad is not None)
    reference = dict(theirs.named_parameters())
    compared = 0
    for name, p in ours.named_parameters():
        other = reference[name].grad
        if other is None or p.grad is None:
            assert other is None or not other.any()
            assert p.grad is None or not p.grad.any()
            continue
        compared += 1
        assert (p.grad - other).abs().max() <= 1e-4 * largest, name
    assert compared > 10
