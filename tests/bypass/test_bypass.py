"""A bypass: what becomes of sure tokens, in training, in chunks and where layers are left out; what the gate learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.cost.count import count
from archc.diagnostics import ArchError
from archc.graph.verify import verify
from archc.plan import plan
from archc.resolve import load_text
from tests.bypass.models import BYPASS, SPECS, expected, model_of, module_of, package_of
from tests.flops import counted

COLUMNS = 24
law = settings(max_examples=3, deadline=None, database=None, derandomize=True)
every = pytest.mark.parametrize("name", SPECS)


def tokens(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randint(61, (rows, columns), generator=torch.Generator().manual_seed(seed))


@contextmanager
def training(module: Any) -> Iterator[Any]:
    module.train()
    try:
        yield module
    finally:
        module.eval()


@contextmanager
def masking(module: Any) -> Iterator[Any]:
    """No layer is left out: what it makes of sure tokens is dropped."""
    module.skipping = False
    try:
        yield module
    finally:
        del module.skipping


@contextmanager
def skipped(module: Any) -> Iterator[list[int]]:
    """The layers left out, call after call."""
    found: list[int] = []
    for i, layer in enumerate(module.model.layers):
        if hasattr(layer, "remember"):

            def remember(*args: Any, own: Any = layer.remember, i: int = i) -> None:
                found.append(i)
                own(*args)

            layer.remember = remember
    try:
        yield found
    finally:
        for layer in module.model.layers:
            vars(layer).pop("remember", None)


# --- what is computed ----------------------------------------------------------------------------
@every
@torch.no_grad()
def test_sure_tokens_stay_as_they_are(name: str) -> None:
    module, ids = module_of(name), tokens(3, COLUMNS)
    want, found = expected(name, module, ids, soft=False)
    assert 0.2 < torch.stack(found).gt(0.5).double().mean() < 0.8, "some are, some are not"
    assert torch.allclose(module(ids).logits, want, rtol=0, atol=1e-10)


@every
@torch.no_grad()
def test_training_blends(name: str) -> None:
    ids = tokens(3, COLUMNS, seed=1)
    with training(module_of(name)) as module:
        want, found = expected(name, module, ids, soft=True)
        out = module(ids, labels=ids)
    assert torch.allclose(out.logits, want, rtol=0, atol=1e-10)
    assert float(out.losses["bypass"]) == pytest.approx(float(sum((1 - c).mean() for c in found)), rel=1e-12)
    others = sum(
        float(value) * {"bypass": 0.3, "mtp": 0.3, "index": 1.0, "balance": 0.0001}[k]
        for k, value in out.losses.items()
    )
    assert float(out.loss) == pytest.approx(float(out.lm_loss) + others, rel=1e-12)


@torch.no_grad()
def test_padding_is_not_counted_as_depth() -> None:
    ids, mask = tokens(2, COLUMNS, seed=2), torch.ones(2, COLUMNS, dtype=torch.int64)
    mask[0, :13] = 0
    module = module_of("add")
    padded = module(ids, labels=ids, attention_mask=mask).losses["bypass"]
    rows = [
        module(ids[:1, 13:], labels=ids[:1, 13:]).losses["bypass"],
        module(ids[1:], labels=ids[1:]).losses["bypass"],
    ]
    assert float(padded) == pytest.approx(
        float((COLUMNS - 13) * rows[0] + COLUMNS * rows[1]) / (2 * COLUMNS - 13), rel=1e-12
    )


@every
@torch.no_grad()
def test_with_a_threshold_of_one_nothing_changes(name: str) -> None:
    """Bit for bit, however sure the gate is."""
    module, plain, ids = (
        module_of(name, "bypass = confidence { threshold = 1 }"),
        module_of(name, ""),
        tokens(2, COLUMNS),
    )
    gates = [p for n, p in module.named_parameters() if n.endswith("bypass.bias")]
    for gate in gates:
        gate.fill_(1e4)
    assert torch.equal(module(ids).logits, plain(ids).logits)
    cache, others = module.new_cache(2, COLUMNS), plain.new_cache(2, COLUMNS)
    with skipped(module) as left_out:
        for chunk in ids.split([20, *[1] * 4], 1):
            assert torch.equal(module(chunk, cache=cache).logits, plain(chunk, cache=others).logits)
    assert not left_out


# --- chunks, and layers that are left out --------------------------------------------------------
@every
@law
@given(data=st.data())
@torch.no_grad()
def test_leaving_out_changes_nothing(name: str, data: st.DataObject) -> None:
    """Any chunks, ragged rows and rewinds: logits as of one forward, and bit for bit what masking gives, caches too."""
    rows = data.draw(st.integers(1, 3))
    module, ids = module_of(name), tokens(rows, COLUMNS, data.draw(st.integers(0, 1000)))
    want = module(ids).logits
    caches = [module.new_cache(rows, COLUMNS + 8) for _ in range(2)]
    held = [0] * rows
    while min(held) < COLUMNS:
        size = data.draw(st.sampled_from([1, 1, 2, 5, 20]))
        counts = [min(data.draw(st.integers(0, size)) if rows > 1 else size, COLUMNS - at) for at in held]
        mask, chunk = torch.zeros(rows, size, dtype=torch.int64), tokens(rows, size, seed=3)
        for row, (at, n) in enumerate(zip(held, counts, strict=True)):
            mask[row, :n], chunk[row, :n] = 1, ids[row, at : at + n]
        got = module(chunk, attention_mask=mask, cache=caches[0]).logits
        with masking(module):
            same = module(chunk, attention_mask=mask, cache=caches[1]).logits
        for row, (at, n) in enumerate(zip(held, counts, strict=True)):
            assert torch.equal(got[row, :n], same[row, :n])
            assert torch.allclose(got[row, :n], want[row, at : at + n], rtol=0, atol=1e-9)
        back = [data.draw(st.integers(0, min(n, 2))) for n in counts]
        for cache in caches:
            cache.rewind(back)
        held = [at + n - k for at, n, k in zip(held, counts, back, strict=True)]
    for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
        for key, store in vars(one).items():
            assert torch.equal(store.data[:, : min(held)], vars(other)[key].data[:, : min(held)]), key


@every
@torch.no_grad()
def test_layers_are_left_out_where_all_tokens_are_sure(name: str) -> None:
    """And only there: a call of one token by its own confidence, one of two rows by both."""
    module, ids = module_of(name), tokens(2, COLUMNS, seed=4)
    _, found = expected(name, module, ids, soft=False)
    places = [i for i, layer in enumerate(module.model.layers) if hasattr(layer, "bypass")]
    for rows in ([0], [1], [0, 1]):
        cache = module.new_cache(len(rows), COLUMNS)
        for at in range(COLUMNS):
            with skipped(module) as left_out:
                module(ids[rows, at : at + 1], cache=cache)
            sure, want = torch.zeros(len(rows), dtype=torch.bool), []
            for i in range(len(module.model.layers)):
                if i > places[0] and bool(sure.all()):
                    want.append(i)
                if i in places:
                    sure = sure | (found[places.index(i)][rows, at] > 0.5)
            assert left_out == want


@torch.no_grad()
def test_layers_that_are_left_out_take_no_products_but_keys_and_values() -> None:
    module = module_of("add")
    gate = module.model.layers[1].bypass
    before = gate.bias.clone()
    flops = []
    try:
        for bias in (-1e4, 1e4):
            gate.bias.fill_(bias)
            with counted() as mode:
                module(tokens(1, 1), cache=module.new_cache(1, 8))
            flops.append(mode.get_total_flops())
    finally:
        gate.bias.copy_(before)
    model = model_of("add")
    assert flops[0] == count(model, plan(model), mode="decode", context=1).flops.executed.workload_total
    dim, head, hidden = 18, 6, 20
    attention = 2 * dim * (3 * head + 3 * head) + 2 * 3 * (head + head)  # queries and output, one key
    assert flops[0] - flops[1] == 2 * (attention + 2 * 3 * dim * hidden)


def test_nothing_is_left_out_in_training_with_labels_or_compiled() -> None:
    module, ids = module_of("add"), tokens(1, 1)
    gate = module.model.layers[1].bypass
    before = gate.bias.detach().clone()
    with torch.no_grad(), skipped(module) as left_out:
        gate.bias.fill_(1e4)
        try:
            with training(module):
                module(ids, cache=module.new_cache(1, 8))
            module(ids, labels=ids, cache=module.new_cache(1, 8))
            compiled = torch.compile(module.model.forward, backend="eager", fullgraph=True)
            rows = module(ids).logits
            assert not left_out
            with patch.object(module, "hidden", compiled):
                assert torch.equal(module(ids, cache=module.new_cache(1, 8)).logits, rows)
            assert not left_out
            module(ids, cache=module.new_cache(1, 8))
            assert left_out == [2, 3]
        finally:
            gate.bias.copy_(before)


@pytest.mark.parametrize("speculate", [0, 2])
@torch.no_grad()
def test_generation_is_greedy_by_full_forwards(speculate: int) -> None:
    module, ids = module_of("latent"), tokens(1, 9, seed=5)
    want = ids
    for _ in range(10):
        want = torch.cat([want, module(want).logits[:, -1:].argmax(-1)], 1)
    with skipped(module) as left_out:
        assert torch.equal(module.generate(ids, max_new_tokens=10, speculate=speculate), want)
    assert left_out


# --- learning ------------------------------------------------------------------------------------
@every
def test_the_gate_learns_from_the_language_loss_and_its_gradient_is_the_slope(name: str) -> None:
    ids = tokens(2, COLUMNS, seed=6)
    with training(module_of(name)) as module:
        module.zero_grad()
        module(ids, labels=ids).lm_loss.backward()
        gates = {n: p for n, p in module.named_parameters() if ".bypass." in n}
        assert gates
        assert all(p.grad is not None and p.grad.abs().max() > 1e-6 for p in gates.values())
        generator = torch.Generator().manual_seed(8)
        reached = [p for p in module.parameters() if p.grad is not None]
        ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in reached]
        slope = sum(float((p.grad * way).sum()) for p, way in zip(reached, ways, strict=True))
        before = [p.detach().clone() for p in reached]
        module.zero_grad()
        losses = []
        with torch.no_grad():
            for h in (1e-6, -1e-6):
                for p, way, was in zip(reached, ways, before, strict=True):
                    p.copy_(was + h * way)
                losses.append(float(module(ids, labels=ids).lm_loss))
            for p, was in zip(reached, before, strict=True):
                p.copy_(was)
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("policy", ["selective", "full", "mhc"])
def test_recomputing_gives_the_same_gradients(policy: str) -> None:
    ids = tokens(2, COLUMNS, seed=9)
    runs = []
    with training(module_of("streams")) as module:
        for recompute in ("none", policy):
            module.recompute = recompute
            module.zero_grad()
            out = module(ids, labels=ids)
            out.loss.backward()
            module.loads.clear()
            runs.append((out.loss.detach(), {n: p.grad.clone() for n, p in module.named_parameters()}))
        module.recompute = "none"
        module.zero_grad()
    assert torch.equal(runs[0][0], runs[1][0])
    for n, gradient in runs[0][1].items():
        assert torch.allclose(runs[1][1][n], gradient, rtol=0, atol=1e-12), n


def test_the_loss_of_depth_makes_it_confident() -> None:
    """Where skipping costs nothing else: a gate that learns from depth alone."""
    module = package_of("add").Model()
    gate = module.model.layers[1].bypass
    ids = tokens(4, COLUMNS, seed=10)
    assert gate.bias.tolist() == [-3]
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.5)
    shares = []
    for _ in range(30):
        optimizer.zero_grad()
        depth = module(ids, labels=ids).losses["bypass"]
        depth.backward()
        optimizer.step()
        shares.append(float(depth.detach()))
    assert shares[0] == pytest.approx(1 - 1 / (1 + 2.718281828459045**3), rel=1e-5)
    assert shares[-1] < 0.4  # of 40 draws of the weights it was 0.21 at most


# --- plan ----------------------------------------------------------------------------------------
@every
def test_the_graph_is_sound_and_the_parameters_are_the_module_s(name: str) -> None:
    graph = plan(model_of(name))
    verify(graph)
    shapes = {p.name: p.spec.shape for p in graph.parameters()}
    assert shapes == {
        n: tuple(p.shape) for n, p in (*module_of(name).named_parameters(), *module_of(name).named_buffers())
    }
    gates = sum(n.endswith(".bypass.weight") for n in shapes)
    assert gates == model_of(name).schedule.__len__() - sum(s.memory is None for s in model_of(name).schedule)


def test_only_memories_have_a_bypass() -> None:
    with pytest.raises(ArchError, match="bypass"):
        load_text(
            f"arch 1\nmodel m {{ vocab = 9, dim = 8, layers = 1, context = 9\n"
            f"attention = gqa {{ heads = 2, {BYPASS} }}\n"
            "ffn = swiglu { hidden = 8 } }\n"
        )
