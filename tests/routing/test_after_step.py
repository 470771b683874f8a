"""Loads of experts and the biases they move: each token counts once, however a training step is run."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.oracles import routing
from tests.routing.models import ACTIVE, EXPERTS, model, package, tokens, watched

torch.set_num_threads(1)
RATE = 0.01
BIASES = [f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in range(2)]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Biases alone."""
    return package(tmp_path_factory.mktemp("bias"), f"sigmoid {{ active = {ACTIVE}, bias_rate = {RATE} }}")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Biases and a balance loss."""
    router = f"sigmoid {{ active = {ACTIVE}, bias_rate = {RATE}, balance_weight = 0.1 }}"
    return package(tmp_path_factory.mktemp("both"), router)


def biases(net: Any) -> list[Tensor]:
    """Those of both layers."""
    buffers = dict(net.named_buffers())
    return [buffers[name].clone() for name in BIASES]


def moved(net: Any, before: list[Tensor]) -> list[list[int]]:
    """By how many rates `after_step` moves each bias."""
    net.after_step()
    return [((b - a) / RATE).round().int().tolist() for a, b in zip(before, biases(net), strict=True)]


def held(net: Any) -> list[list[int]]:
    """The loads since the last step."""
    return [load.count.tolist() for load in net.loads]


def signs(loads: list[int]) -> list[int]:
    """Up below the mean, down above it."""
    mean = sum(loads) / len(loads)
    return [(n < mean) - (n > mean) for n in loads]


# --- what is counted -----------------------------------------------------------------------------
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_loads_are_the_choices_of_tokens_and_of_no_padding(module: ModuleType, data: st.DataObject) -> None:
    """Over any number of forwards, padded, packed or whole."""
    net = model(module, seed=data.draw(st.integers(0, 99)))
    expected: list[list[list[int]]] = [[], []]
    for micro in range(data.draw(st.integers(1, 3))):
        ids = tokens(2, data.draw(st.integers(1, 12)), micro)
        kind = data.draw(st.sampled_from(["whole", "padded", "packed"]))
        draws = [[data.draw(st.integers(0, 2)) for _ in range(ids.shape[1])] for _ in ids]
        marks = torch.tensor(draws)
        given = {"whole": {}, "padded": {"attention_mask": marks.clamp(max=1)}, "packed": {"sequence_ids": marks}}[kind]
        counts = (marks > 0).sum(1).tolist() if given else [ids.shape[1]] * 2
        with watched(net) as seen:
            net(ids, **given)
        for layer, (_, chosen) in enumerate(seen):
            expected[layer] += [choice for row, n in zip(chosen, counts, strict=True) for choice in row[:n].tolist()]
    want = [routing.loads(choices, EXPERTS) for choices in expected]
    assert held(net) == want
    assert moved(net, biases(net)) == [signs(loads) for loads in want]


def test_a_forward_changes_no_parameter_and_no_buffer(both: ModuleType) -> None:
    net, ids = model(both), tokens(2, 9)
    before = {name: value.clone() for name, value in (*net.state_dict().items(), *net.named_buffers())}
    net(ids, labels=ids).loss.backward()
    after = dict((*net.state_dict().items(), *net.named_buffers()))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sum(held(net)[0]) == 2 * 9 * ACTIVE


def test_a_step_moves_biases_once(module: ModuleType) -> None:
    net = model(module)
    for seed in range(3):
        net(tokens(2, 9, seed))
    first = moved(net, biases(net))
    assert {-1, 1} <= set(first[0]) <= {-1, 0, 1}
    assert held(net) == [[0] * EXPERTS] * 2
    assert moved(net, biases(net)) == [[0] * EXPERTS] * 2
    assert len(net.loads) == 2, "memory grows with forwards"


def test_a_rate_of_zero_counts_nothing(tmp_path: Path) -> None:
    net = model(package(tmp_path, f"sigmoid {{ active = {ACTIVE}, bias_rate = 0 }}"))
    net(tokens(2, 9))
    assert net.loads == []
    assert net.after_step() is None


def test_only_training_without_a_cache_counts(module: ModuleType) -> None:
    net, ids = model(module), tokens(2, 9)
    net(ids, cache=net.new_cache(2, 9))
    net.next_logits(ids)
    net.generate(ids, max_new_tokens=3)
    net.eval()
    net(ids, labels=ids)
    assert net.loads == []
    net.train()
    with torch.no_grad():
        net(ids)
    assert sum(held(net)[1]) == 2 * 9 * ACTIVE


def test_predicted_tokens_count_in_their_own_routers(tmp_path: Path) -> None:
    """A module of MTP sees the columns with a token ahead, and runs where there are labels."""
    router = f"sigmoid {{ active = {ACTIVE}, bias_rate = {RATE}, balance_weight = 0.1 }}"
    net, ids = model(package(tmp_path, router, more="mtp = concat")), tokens(2, 9)
    net(ids)
    assert [sum(load) for load in held(net)] == [18 * ACTIVE] * 2
    with watched(net) as seen:
        out = net(ids, labels=ids)
    assert [sum(load) for load in held(net)] == [36 * ACTIVE] * 2 + [16 * ACTIVE]
    before = {name: value.clone() for name, value in net.named_buffers()}
    net.after_step()
    assert all(not torch.equal(before[name], value) for name, value in net.named_buffers())
    assert len(before) == 3
    columns = (9, 9, 8)
    losses = [
        routing.sequence_balance(logits[row, :n].sigmoid().numpy(), chosen[row, :n].tolist())
        for (logits, chosen), n in zip(seen, columns, strict=True)
        for row in range(2)
    ]
    assert out.losses["balance"].item() == pytest.approx(sum(losses) / 2, rel=1e-9)


# --- recomputation -------------------------------------------------------------------------------
def by_layer(net: Any, *, reentrant: bool) -> None:
    """Has every layer run again in the backward pass."""
    for layer in net.model.layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=reentrant)


def trained(net: Any, ids: Tensor, loss: Callable[[], Tensor]) -> tuple[list[list[int]], dict[str, Tensor]]:
    """The loads and gradients of a step of two forwards."""
    for _ in range(2):
        loss().backward()
    return held(net), {name: p.grad for name, p in net.named_parameters()}


@pytest.fixture
def plain(both: ModuleType) -> tuple[list[list[int]], dict[str, Tensor]]:
    net, ids = model(both), tokens(2, 9)
    return trained(net, ids, lambda: net(ids, labels=ids).loss)


def same(got: tuple[list[list[int]], dict[str, Tensor]], want: tuple[list[list[int]], dict[str, Tensor]]) -> None:
    assert got[0] == want[0]
    for name, gradient in want[1].items():
        torch.testing.assert_close(got[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_layers_that_run_again_count_once(both: ModuleType, plain: Any) -> None:
    """The balance loss has its gradient all the same."""
    net, ids = model(both), tokens(2, 9)
    by_layer(net, reentrant=False)
    same(trained(net, ids, lambda: net(ids, labels=ids).loss), plain)


def test_layers_under_a_reentrant_checkpoint_count_once(module: ModuleType) -> None:
    net, ids = model(module), tokens(2, 9)
    want = trained(net, ids, lambda: net(ids, labels=ids).loss)
    net = model(module)
    by_layer(net, reentrant=True)
    same(trained(net, ids, lambda: net(ids, labels=ids).loss), want)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_balance_loss_under_a_reentrant_checkpoint_is_refused(both: ModuleType) -> None:
    """It would be reported, and have no gradient."""
    net, ids = model(both), tokens(2, 9)
    by_layer(net, reentrant=True)
    with pytest.raises(RuntimeError, match="'balance' of a layer under a reentrant checkpoint"):
        net(ids, labels=ids)
    with torch.no_grad():
        assert net(ids, labels=ids).losses["balance"] > 0


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])
def test_a_model_that_runs_again_counts_once(both: ModuleType, plain: Any, *, reentrant: bool) -> None:
    net, ids = model(both), tokens(2, 9)
    handle = torch.zeros((), requires_grad=True)  # a reentrant checkpoint needs an input with a gradient

    def loss(handle: Tensor) -> Tensor:
        return net(ids, labels=ids).loss + 0 * handle

    same(trained(net, ids, lambda: checkpoint(loss, handle, use_reentrant=reentrant)), plain)


# --- copies, moves, compilers, processes -----------------------------------------------------------
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_has_loads_and_biases_of_its_own(module: ModuleType, clone: Callable[[Any], Any]) -> None:
    net, ids = model(module), tokens(2, 9)
    net(ids)
    other, before = clone(net), biases(net)
    assert held(other) == held(net)
    want = [signs(loads) for loads in held(net)]
    assert moved(other, before) == want
    assert all(torch.equal(a, b) for a, b in zip(before, biases(net), strict=True))
    other(ids)
    assert moved(net, before) == want


def test_a_model_converted_in_between_says_so(module: ModuleType) -> None:
    net = model(module)
    net(tokens(2, 9))
    net.float()
    with pytest.raises(RuntimeError, match="call after_step"):
        net.after_step()


@pytest.mark.parametrize(
    "convert", [lambda net: net.to(torch.bfloat16), lambda net: torch.nn.Sequential(net).half()[0]]
)
def test_biases_of_a_narrower_model_still_move(module: ModuleType, convert: Callable[[Any], Any]) -> None:
    """A bias of 16 has steps of 1/8 in bfloat16, of 1/64 in float16: a hundredth would be lost or rounded."""
    net = model(module)
    for name in BIASES:
        net.get_buffer(name).fill_(16)
    net = convert(net)
    assert next(net.parameters()).dtype in {torch.bfloat16, torch.float16}
    net(tokens(2, 9))
    want = [signs(loads) for loads in held(net)]
    assert moved(net, biases(net)) == want


def test_a_training_step_compiles_as_one_graph(both: ModuleType) -> None:
    """Forward, losses and counts; the second forward finds loads to add to, and from then on nothing changes."""
    torch._dynamo.reset()
    backend, graphs = import_module("torch._dynamo.backends.debugging").aot_eager, []

    def compiler(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return backend(graph, inputs)

    nets = [model(both), model(both)]
    run = torch.compile(nets[1], fullgraph=True, backend=compiler)
    for step in range(2):
        for micro in range(2):
            ids = tokens(2, 9, 10 * step + micro)
            want, got = nets[0](ids, labels=ids), run(ids, labels=ids)
            want.loss.backward()
            got.loss.backward()
            torch.testing.assert_close(got.loss, want.loss)
            torch.testing.assert_close(got.losses, want.losses)
            assert held(nets[1]) == held(nets[0])
        for net in nets:
            net.after_step()
    assert len(graphs) == 2
    for (name, p), other in zip(nets[1].named_parameters(), nets[0].parameters(), strict=True):
        torch.testing.assert_close(p.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
    for a, b in zip(biases(nets[1]), biases(nets[0]), strict=True):
        assert torch.equal(a, b)


PROCESS = """
import sys
import torch
import torch.distributed as dist
from routed import Model

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
net = Model(dtype=torch.float64)
ids = torch.load(f"{folder}/ids.pt")
net(ids[rank : rank + 1])
net.after_step()
torch.save(net.state_dict(), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_processes_add_up_their_loads(tmp_path: Path) -> None:
    """Each has half of a batch; both end with the biases of the whole batch."""
    module = package(tmp_path, f"sigmoid {{ active = {ACTIVE}, bias_rate = {RATE} }}")
    ids = tokens(2, 9)
    torch.save(ids, tmp_path / "ids.pt")
    command = [sys.executable, "-c", PROCESS]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=tmp_path) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    torch.manual_seed(0)
    net = module.Model(dtype=torch.float64)
    alone = copy.deepcopy(net)
    for which, rows in ((net, ids), (alone, ids[:1])):
        which(rows)
        which.after_step()
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(state[name], want) for name, want in net.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(biases(net), biases(alone), strict=True))


# --- what it is for ------------------------------------------------------------------------------
def test_biases_level_skewed_loads(module: ModuleType) -> None:
    """Every token chooses one of the experts at first; in the end each load is within a tenth of even."""
    net, ids = model(module), tokens(16, 64)
    direction = torch.ones(16, dtype=torch.float64)
    with torch.no_grad():
        net.model.embed_tokens.weight += 0.5 * direction
        for layer in net.model.layers:
            layer.post_attention_layernorm.weight.abs_()
            layer.mlp.gate.weight[3] += 0.1 * direction
            layer.mlp.gate.weight[5] -= 0.1 * direction

    def loads() -> Tensor:
        """As a multiple of an even load: [layers, experts]."""
        with torch.no_grad():
            net(ids)
        return torch.tensor(held(net)) * EXPERTS / (ids.numel() * ACTIVE)

    now = loads()
    assert (now.max(1).values > 3).all()
    for steps, rate in ((100, 0.01), (60, 0.002), (40, 0.0005)):
        for _ in range(steps):
            for load in net.loads:
                load.rate = rate
            net.after_step()
            now = loads()
    assert ((now - 1).abs() < 0.1).all()
