"""Published training runs, predicted by the default rules from spec, machine and plan: nothing is fitted to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archc.cost.count import workload
from archc.cost.time import Step
from tests.cost.runs import END, OTHER_RULES, PAGE, RUNS, START, V3, Run, machine, planned, tables, timed


def test_deepseek_v3_takes_the_published_hours() -> None:
    """2.664M H800 hours of pre-training, 5.328M dollars at 2 each (arXiv:2412.19437, table 1)."""
    found = timed(V3)
    assert found.gpu_hours == pytest.approx(2.664e6, rel=0.35)
    assert found.money == pytest.approx(5.328e6, rel=0.35)
    assert found.bound == "compute"


def test_deepseek_v3_exchanges_take_about_as_long_as_its_arithmetic() -> None:
    """Communication to computation is about 1 : 1 (arXiv:2412.19437, section 3.2.1), and hides but for the ends."""
    found = timed(V3)
    assert found.communication_s == pytest.approx(found.compute_s, rel=0.35)
    assert found.parts["communication"] < 0.1 * found.total_s


def test_what_measured_rates_add_to_those_that_makers_state() -> None:
    hours = {name: timed(V3, setting).gpu_hours or 0 for name, setting in OTHER_RULES}
    usual = hours.pop("the default rules")
    assert hours.pop("all rates as the makers state them, no core sends") < usual
    assert hours["all layers are computed again"] > usual > hours["nothing is computed again"]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.spec)
def test_no_run_was_faster_than_its_machines_can_be(run: Run) -> None:
    """The step lies between what the devices need at the stated peaks and what the run took; half of it at least where
    the plan of the run is published.
    """
    found = timed(run)
    assert found.gpu_hours is not None
    assert found.gpu_hours < run.hours
    if run.setting.parallel.pp > 1:
        assert run.hours < 2 * found.gpu_hours


def test_a_pipeline_of_two_directions_shares_the_ends() -> None:
    """DualPipe puts the first and the last stage on the same devices (arXiv:2412.19437, section 3.2.1)."""
    model, graph = planned("deepseek_v3")
    w, _ = workload(model, "train", V3.batch, V3.seq, None)
    one, two = (
        [
            spent.total
            for spent in Step(
                model, graph, w, "train", replace(V3.setting, schedule=schedule), machine("h800")
            ).stage_times()
        ]
        for schedule in ("1f1b", "dualpipe")
    )
    assert two == pytest.approx([(a + b) / 2 for a, b in zip(one, reversed(one), strict=True)])
    assert max(two) < max(one)


def test_the_page_has_the_tables() -> None:
    """Written anew by ``python -m tests.cost.runs``."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    written, _, _ = rest.partition(END)
    assert written.strip() == "\n".join(tables()).strip()
