"""What a backward pass runs again changes memory and nothing else."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .tiny_model import Model
from .twin import COLUMNS, TINY, randomise, tokens, twin

law = settings(max_examples=4, deadline=None, database=None, derandomize=True)
policies = pytest.mark.parametrize("policy", ["selective", "full", "mhc"])


def trainable(recompute: str = "none") -> Model:
    """A twin in training, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # which tables of experts by token id begin with
        model = Model(dtype=torch.float64, recompute=recompute)
    randomise(model)
    return model


def trained(model: Model, ids: Tensor, **given: Any) -> tuple[Any, dict[str, Tensor | None], list[Tensor]]:
    """What a forward returns, every gradient, and the loads of the routers."""
    model.zero_grad()
    out = model(ids, labels=ids, **given)
    out.loss.backward()
    return out, {n: p.grad for n, p in model.named_parameters()}, [load.count for load in model.loads]


def assert_equal(got: tuple[Any, Any, Any], want: tuple[Any, Any, Any]) -> None:
    """Fails unless losses and loads are equal bit for bit, and gradients but for rounding."""
    assert torch.equal(got[0].loss, want[0].loss)
    assert torch.equal(got[0].logits, want[0].logits)
    assert got[0].losses.keys() == want[0].losses.keys()
    assert all(torch.equal(got[0].losses[name], loss) for name, loss in want[0].losses.items())
    assert all(map(torch.equal, got[2], want[2]))
    assert len(got[2]) == len(want[2])
    for name, gradient in want[1].items():
        torch.testing.assert_close(got[1][name], gradient, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@policies
@law
@given(data=st.data())
def test_training_is_the_same_whatever_runs_again(policy: str, data: st.DataObject) -> None:
    ids = tokens(data.draw(st.integers(1, 2)), data.draw(st.integers(2, COLUMNS)), data.draw(st.integers(0, 2**31)))
    given: dict[str, Any] = {}
    at = data.draw(st.integers(1, ids.shape[1]))
    kind = data.draw(st.sampled_from(("whole", "left", "right", "packed")))
    columns = torch.arange(ids.shape[1]).expand_as(ids)
    if kind in ("left", "right"):
        given["attention_mask"] = ((columns < at) == (kind == "right")) | (columns == ids.shape[1] - 1)
    elif kind == "packed":
        given["sequence_ids"] = 1 + (columns >= at).long()
    assert_equal(trained(trainable(policy), ids, **given), trained(trainable(), ids, **given))


@policies
def test_a_forward_that_nobody_learns_from_leaves_nothing(policy: str) -> None:
    model, ids = trainable(policy), tokens(2, COLUMNS, seed=31)
    out = model(ids, labels=ids, hidden_states=True)
    held = [StorageWeakRef(x.untyped_storage()) for x in (out.logits, *out.hidden_states)]
    del out
    assert all(x.expired() for x in held)


@policies
def test_the_policy_may_change_between_steps(policy: str) -> None:
    model, ids = trainable(), tokens(2, COLUMNS, seed=30)
    want = trained(trainable(), ids)
    model.recompute = policy
    assert model.recompute == policy
    assert_equal(trained(model, ids), want)
    copied = deepcopy(model)
    for load in model.loads:
        load.count.zero_()
    model.recompute = "none"
    assert_equal(trained(model, ids), want)
    copied.loads = []
    assert_equal(trained(copied, ids), want)


@policies
def test_a_second_backward_pass_adds_the_same_gradient(policy: str) -> None:
    model, ids = trainable(policy), tokens(1, 20, seed=31)
    loss = model(ids, labels=ids).loss
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, 2 * once[name], rtol=1e-10, atol=1e-12)


@policies
def test_hidden_states_are_recorded_once_and_carry_gradients(policy: str) -> None:
    ids, found = tokens(2, 24, seed=32), []
    for model in (trainable(), trainable(policy)):
        out = model(ids, labels=ids, hidden_states=True)
        (out.loss + sum(state.square().mean() for state in out.hidden_states)).backward()
        found.append((out.hidden_states, [p.grad for p in model.parameters()]))
    (plain, slopes), (states, again) = found
    assert len(states) == len(plain) == TINY["layers"] + 1
    assert all(map(torch.equal, states, plain))
    torch.testing.assert_close(again, slopes, rtol=1e-10, atol=1e-12)


@policies
def test_caches_and_forwards_without_gradient_are_as_ever(policy: str) -> None:
    model, ids = trainable(policy).eval(), tokens(2, 24, seed=33)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, twin()(ids).logits)
    cache, plain = model.new_cache(2, 24), twin().new_cache(2, 24)
    for chunk in ids.split(10, 1):  # with a gradient, which leaves nothing to run again
        assert torch.equal(model(chunk, cache=cache).logits, twin()(chunk, cache=plain).logits)
    assert torch.equal(model.generate(ids[:, :6], 4), twin().generate(ids[:, :6], 4))


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="recompute is 'none', 'selective', 'full', 'mhc', not 'some'"):
        Model(device="meta", recompute="some")


class _Made(TorchDispatchMode):
    """Every memory that an operator made while this ran, and its bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.bytes[StorageWeakRef(storage)] = storage.nbytes()
        return out

    def held(self) -> int:
        return sum(size for storage, size in self.bytes.items() if not storage.expired())


def held(policy: str) -> tuple[int, int]:
    """Bytes that a forward leaves behind for its gradient, and that a backward pass leaves but for gradients."""
    model, ids = trainable(policy), tokens(2, COLUMNS, seed=34)
    with _Made() as made:
        loss = model(ids, labels=ids).loss
    before = made.held()
    loss.backward()
    model.zero_grad()
    return before, made.held()


def test_what_runs_again_is_not_held() -> None:
    """In training, and nothing is left behind: no part of the graph holds itself."""
    import gc

    gc.disable()  # what only the collector of cycles frees is held
    try:
        found = {policy: held(policy) for policy in ("none", "selective", "full", "mhc")}
    finally:
        gc.enable()
    bytes_held = {policy: before for policy, (before, _) in found.items()}
    assert bytes_held["full"] < bytes_held["selective"] < bytes_held["none"]
    if Model.streams > 1:
        assert bytes_held["mhc"] < bytes_held["none"]
    assert all(after <= found["none"][1] for _, after in found.values()), found
