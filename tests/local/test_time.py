"""Times of this machine, predicted and measured: within 30 %, in one run that measures the machine first."""

from __future__ import annotations

import gc

import pytest
import torch

from archc.cli._bench.calibrate import calibrate
from archc.cost.local import Rates
from bench.local_time import SIZES, STEPS, measured


@pytest.fixture(scope="module")
def rates() -> Rates:
    torch.set_num_threads(1)
    return Rates(calibrate(1))


@pytest.mark.slow
@pytest.mark.parametrize("size", range(3))
@pytest.mark.parametrize("family", SIZES)
def test_steps_take_what_was_predicted(family: str, size: int, rates: Rates) -> None:
    found = measured(family, size, rates)
    gc.collect()
    for mode in STEPS:
        predicted, real = found[mode]
        assert real > 0.05, "too short to say anything"
        assert predicted == pytest.approx(real, rel=0.3), (mode, predicted, real)
