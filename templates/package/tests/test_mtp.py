"""Laws of the modules that predict further tokens, on the tiny twin of this package."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from .. import Model as FullModel
from ..runtime.rows import Rows
from .tiny_model import Model
from .twin import COLUMNS, FULL, TINY, fresh, logits, tokens, twin

law = settings(max_examples=12, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 2**31)


def mtp_loss(ids: Tensor, labels: Tensor, **given: Tensor) -> float:
    """The mean cross entropy of the modules."""
    with torch.no_grad():
        return float(twin()(ids, labels=labels, **given).losses["mtp"])


# --- losses --------------------------------------------------------------------------------------
@law
@given(data=st.data())
def test_the_mtp_loss_of_a_target_reads_what_comes_before_it_and_nothing_else(data: st.DataObject) -> None:
    modules = len(twin().mtp)
    columns = data.draw(st.integers(modules + 3, COLUMNS))
    ids = tokens(2, columns, data.draw(seeds))
    target = data.draw(st.integers(modules + 1, columns - 1))
    labels = torch.full_like(ids, -100)
    labels[:, target] = ids[:, target]
    want = mtp_loss(ids, labels)
    other = ids.clone()
    other[:, target:] = (ids[:, target:] + 1) % TINY["vocab"]
    assert mtp_loss(other, labels) == pytest.approx(want, abs=1e-9), "reads the target or what comes after it"
    other = ids.clone()
    other[:, target - 1] = (ids[:, target - 1] + 1) % TINY["vocab"]
    assert mtp_loss(other, labels) != pytest.approx(want, abs=1e-9), "does not read the token before the target"


@law
@given(data=st.data())
def test_the_mtp_loss_is_the_same_however_rows_are_padded_and_packed(data: st.DataObject) -> None:
    """Copies of a sequence have the loss of one: none sees another, and nothing beyond a sequence is a target."""
    size = data.draw(st.integers(1, COLUMNS // 3))
    ids = tokens(1, size, data.draw(seeds))
    want = mtp_loss(ids, ids)
    before, between, after = (data.draw(st.integers(0, 5)) for _ in range(3))
    noise = tokens(3, before + between + after + 2 * size, data.draw(seeds))
    sequences = torch.zeros_like(noise)
    for row, shift in enumerate((0, before, before + between)):
        for start, sequence in ((shift, 1), (noise.shape[1] - size - (after if row else 0), 2)):
            noise[row, start : start + size] = ids[0]
            sequences[row, start : start + size] = sequence
    assert mtp_loss(noise, noise, sequence_ids=sequences) == pytest.approx(want, abs=1e-9)
    alone = (sequences == 2).long()
    assert mtp_loss(noise, noise, attention_mask=alone) == pytest.approx(want, abs=1e-9)


def test_the_mtp_loss_alone_teaches_the_modules_and_the_trunk() -> None:
    """Every parameter that predicting tokens teaches learns from it, but those between what the modules read of the
    main model and its own head; in the total it has its weight.
    """
    model, ids = twin(), tokens(4, COLUMNS, seed=21)
    named = dict(model.named_parameters())

    def still() -> set[str]:
        return {name for name, p in named.items() if p.grad is None or not p.grad.any()}

    _, x, carried = model.run(Rows.whole(ids), ids)
    model.zero_grad()
    carried.square().sum().backward(retain_graph=True)
    dead = still()
    x.square().sum().backward()
    dead -= still()
    model.zero_grad()
    out = model(ids, labels=ids)
    (out.lm_loss + out.losses["mtp"]).backward()
    dead |= still()
    model.zero_grad()
    out = model(ids, labels=ids)
    out.losses["mtp"].backward(retain_graph=True)
    assert still() <= dead
    model.zero_grad()
    if out.losses.keys() == {"mtp"}:
        assert torch.allclose(out.loss, out.lm_loss + model.mtp_weight * out.losses["mtp"])


# --- drafts --------------------------------------------------------------------------------------
@settings(law, max_examples=6)
@given(columns=st.integers(1, 12), new=st.integers(1, 12), speculate=st.integers(1, 6), seed=seeds)
def test_a_pass_gives_one_token_more_than_it_keeps_drafts(columns: int, new: int, speculate: int, seed: int) -> None:
    model, ids = twin(), tokens(1, columns, seed)
    plain = model.generate(ids, new)
    assert torch.equal(model.generate(ids, new, speculate=speculate), plain)
    done = model.last_generation
    assert done is not None
    assert done.lengths == (new,)
    if done.acceptance is None:
        assert done.forwards == new <= 2
    else:
        assert 0 <= done.acceptance <= 1
        assert (done.acceptance == 0) == (done.forwards == new)
        drafted = (new - done.forwards) / done.acceptance if done.acceptance else 0
        assert drafted == pytest.approx(round(drafted))
        assert drafted <= speculate * (done.forwards - 1)


# --- without them --------------------------------------------------------------------------------
@pytest.mark.parametrize(("make", "plan"), [(Model, TINY), (FullModel, FULL)], ids=["tiny", "full"])
def test_without_its_modules_a_model_has_the_other_parameters(make: type[Model], plan: dict) -> None:
    names = {name for name, _ in make(device="meta", mtp=False).named_parameters()}
    assert names == {p["name"] for p in plan["parameters"] if not p["buffer"] and p["component"] != "mtp"}


def test_without_its_modules_a_model_gives_the_same_logits() -> None:
    ids = tokens(2, 20, seed=22)
    without = Model(dtype=torch.float64, mtp=False).eval()
    left = without.load_state_dict(twin().state_dict(), strict=False)
    assert not left.missing_keys
    assert torch.equal(logits(without, ids), logits(twin(), ids))
    assert "mtp" not in without(ids, labels=ids).losses
    with pytest.raises(ValueError, match="mtp=False"):
        without.generate(ids, speculate=1)
    assert fresh().mtp
