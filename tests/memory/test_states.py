"""What a training step holds in bfloat16, planned, and held by PyTorch: parameters, gradients and moments exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import archc
from archc.cost.count import count
from archc.cost.setting import Setting
from archc.drawers import drawer_class
from archc.plan import plan, shrink
from archc.schema import Model
from tests.built import built
from tests.memory.saved import step_peaks


def narrow(name: str) -> Model:
    """A twin trained in bfloat16 alone: there is no copy in float32, and moments are as narrow as what they move."""
    model = shrink(archc.load(name, set={"optimizer": "adamw", "optimizer.moments": "bf16"}))
    precision = drawer_class("precision", "bf16")(gradients="bf16", master="none")
    return model.model_copy(update={"precision": precision})


@pytest.mark.parametrize(("name", "islands"), [("deepseek_v4_flash", True), ("deepseek_v3", False)])
def test_a_package_in_bfloat16_keeps_islands_and_their_moments_in_float32(
    name: str, islands: bool, tmp_path: Path
) -> None:
    """`torch.optim.AdamW` makes moments of the dtype of each parameter: eight bytes of every number of an island."""
    model = narrow(name)
    module = built(model, tmp_path).Model(dtype=torch.bfloat16)
    parameters = list(module.parameters())
    assert any(p.dtype == torch.float32 for p in parameters) == islands
    ids = torch.randint(model.vocab, (2, 40), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(parameters)
    module(ids, labels=ids).loss.backward()
    optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    report = count(model, plan(model, names=True), mode="train", batch=2, seq=40, setting=Setting())
    assert report.memory is not None
    assert report.memory.master == 0
    assert report.memory.optimizer == sum(m.nbytes for m in moments)
    assert report.memory.gradients == sum(p.grad.nbytes for p in parameters)
    assert report.memory.weights == sum(x.nbytes for x in module.state_dict().values())
    # Beside what lives across steps there are temporary tensors, of which the plan is not exact
    assert report.memory.step_peak == pytest.approx(max(step_peaks(module, ids)), rel=0.01)
