"""`solve` finds the value that trying all of them would find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.cost.count import count
from archc.cost.solve import FEW, MOST, REACH, closest
from archc.cost.sweep import Variant, variants
from archc.diagnostics import ArchError
from archc.plan import plan
from archc.resolve import load
from archc.resolve.domains import Interval
from archc.resolve.family import Family


def tried(values: Any, residual: Callable[[Any], float | None]) -> Any:
    """The first of the closest, by trying all."""
    found = [(abs(f), i) for i, v in enumerate(values) if (f := residual(v)) is not None]
    return values[min(found)[1]] if found else None


small = st.lists(st.one_of(st.none(), st.integers(-9, 9), st.floats(-2, 2)), min_size=1, max_size=FEW)


@given(small)
def test_of_few_values_any_residual_will_do(residuals: list[float | None]) -> None:
    values = range(10, 10 + 3 * len(residuals), 3)

    def residual(value: int) -> float | None:
        return residuals[(value - 10) // 3]

    assert closest(values, residual) == tried(values, residual)


@settings(max_examples=200)
@given(
    steps=st.lists(st.sampled_from([0, 0, 1, 2, 50]), min_size=FEW + 1, max_size=400),
    start=st.integers(-2000, 100),
    falling=st.booleans(),
    every=st.integers(1, REACH),
    data=st.data(),
)
def test_of_many_values_a_residual_that_rises_or_falls(
    steps: list[int], start: int, falling: bool, every: int, data: st.DataObject
) -> None:
    """Whatever values give no model, as long as one in reach does; neither all values nor anything near it is tried."""
    run = [start]
    for step in steps:
        run.append(run[-1] + step)
    if falling:
        run = [-f for f in run]
    offset = data.draw(st.integers(0, every - 1))
    seen: set[int] = set()

    def residual(i: int) -> float | None:
        seen.add(i)
        return run[i] if i % every == offset else None

    values = range(len(run))
    got = closest(values, residual)
    tries = len(seen)
    best = tried(values, residual)
    assert got is not None
    assert abs(run[got]) == abs(run[best])
    if every == 1:
        assert tries <= 9 + 4 + len(run).bit_length()


@settings(max_examples=50)
@given(st.integers(100, MOST), st.floats(0.01, 0.49), st.floats(-3, 3))
def test_a_residual_that_turns_is_tried_throughout(n: int, where: float, lift: float) -> None:
    def residual(i: int) -> float:
        return (i / n - where) ** 2 + lift / 10

    found = closest(range(n), residual)
    assert found is not None
    assert abs(residual(found)) == abs(residual(tried(range(n), residual)))


@given(st.integers(3 * MOST, 10**12), st.floats(0.02, 0.98))
def test_a_turn_among_very_many(n: int, where: float) -> None:
    """No value near the one found is better."""
    tries: list[int] = []

    def residual(i: int) -> float:
        tries.append(i)
        return (i - where * n) ** 2 / n + 1

    found = closest(range(n), residual)
    assert found is not None
    assert found == pytest.approx(where * n, abs=1.5 + 1e-6 * n)
    assert len(tries) < 2000


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-0.2, 1.2), st.sampled_from([1, -1]))
def test_intervals(low: float, width: float, share: float, sign: int) -> None:
    interval = Interval(low, low + width)
    root = low + share * width
    found = closest(interval, lambda x: sign * (x - root) ** 3)
    assert found is not None
    assert found in interval
    nearest = min(max(root, interval.low), interval.high)
    assert found == pytest.approx(nearest, abs=2e-9 * width + 2e-8 * max(abs(low), abs(low + width)))


def test_values_of_intervals_are_short() -> None:
    assert closest(Interval(0.5, 4.0), lambda x: 3 * x - 3.75) == 1.25
    assert closest(Interval(0.0, 3.0), lambda x: x * x - 2) == pytest.approx(2**0.5, rel=1e-8)


def test_nothing_to_find() -> None:
    assert closest([], lambda x: x) is None
    assert closest(range(MOST), lambda _: None) is None
    assert closest(Interval(0.0, 1.0), lambda _: None) is None


SPEC = """arch 1

model small {{
  param width   = 256 in 64..1024 by 64
  param depth   = 4 in 1..8
  param hidden  = 512 in 16..4096 by 16
  param factor  = 1.0 in 0.25..4.0
  param experts = 8 in 2..64
  vocab   = 1000
  dim     = width
  layers  = depth
  context = 4Ki
  attention = gqa {{ heads = 8, kv_heads = 2, head_dim = 32 }}
  ffn = moe {{ experts = experts, hidden = hidden * factor // 1, shared = 1, router = softmax {{ active = 2 }} }}

  {sweep}
}}
"""


def solved(folder: Path, sweep: str) -> list[Variant]:
    """The variants of a sweep of the small model."""
    path = folder / "small.arch"
    path.write_text(SPEC.format(sweep=sweep))
    family = Family(path)
    (only,) = family.base.sweeps
    return list(variants(family, dict(only.values), {}, solves=only.solves))


@pytest.mark.parametrize(
    ("param", "key", "target", "values"),
    [
        ("hidden", "params.total", 30e6, range(16, 4097, 16)),
        ("experts", "params.active", 10e6, range(2, 65)),
        ("experts", "params.total", 40e6, range(2, 65)),
        ("hidden", "flops.ideal.train_per_token", 60e6, range(16, 4097, 16)),
    ],
)
def test_the_closest_of_all_models(param: str, key: str, target: float, values: range, tmp_path: Path) -> None:
    """Against every value, each loaded, planned and counted by itself."""
    found = solved(tmp_path, f"sweep s {{ depth = [2, 3], solve {param} for cost.{key} == {target:.0f} }}")
    for variant in found:
        off: dict[int, float] = {}
        for value in values[:: max(len(values) // 32, 1)] if param == "hidden" else values:
            off[value] = one(tmp_path, {"depth": variant.values["depth"], param: value}, key) - target
        near = variant.values[param]
        for value in {near - values.step, near, near + values.step} & set(values):
            off[value] = one(tmp_path, {"depth": variant.values["depth"], param: value}, key) - target
        (got,) = variant.solved
        assert abs(got.residual) == min(map(abs, off.values()))
        assert got.residual == off[near]
        assert got.relative == got.residual / target
        assert got.right == target


def one(folder: Path, params: dict[str, Any], key: str) -> float:
    """A figure of one variant by itself, infinite where it does not fit together."""
    try:
        model = load(folder / "small.arch", params=params)
    except ArchError:
        return float("inf")
    return count(model, plan(model)).value(key)


def test_fractions_and_params_alone(tmp_path: Path) -> None:
    (half, double) = solved(tmp_path, "sweep s { hidden = [256, 1024], solve factor for factor * hidden == 512 }")
    assert [half.values["factor"], double.values["factor"]] == [2.0, 0.5]
    assert [v.solved[0].residual for v in (half, double)] == [0, 0]
    assert half.sound


def test_workloads_and_sums_of_costs(tmp_path: Path) -> None:
    equation = "cost.kv_cache.bytes_total(context = 2Ki, batch = 4) / 1KiB == width + 5000"
    (variant,) = solved(tmp_path, f"sweep s {{ solve depth for {equation} within 0.5 }}")
    # 2 heads of 32, keys and values, bf16: 256 bytes a token and layer, and the length of every row
    assert variant.solved[0].left == pytest.approx(variant.values["depth"] * 4 * 2048 * 256 / 1024, rel=1e-4)
    assert variant.solved[0].right == 256 + 5000
    assert variant.values["depth"] == 3


def test_what_has_no_solution_is_listed(tmp_path: Path) -> None:
    found = solved(tmp_path, "sweep s { depth = [1, 8], solve experts for cost.params.total == 40M within 0.05 }")
    assert [v.sound for v in found] == [False, True]
    (missed,) = found[0].findings
    assert missed.code == "E0508"
    assert found[0].values["experts"] == 64
    assert missed.message.startswith("`experts = 64` comes closest, but `cost.params.total` = ")
    assert "below `40M`, more than 5 %" in missed.message
    assert missed.help is not None
    assert missed.help.startswith("widen the domain of `experts`")
    assert found[0].report is not None


def test_where_no_value_gives_a_model(tmp_path: Path) -> None:
    check = 'check depth < 8 else "too deep"'
    (variant,) = solved(tmp_path, f"{check}\n  sweep s {{ depth = [8], solve hidden for cost.params.total == 30M }}")
    assert variant.report is None
    assert variant.values == {"depth": 8, "hidden": None}
    (finding,) = variant.findings
    assert finding.code == "E0508"
    assert finding.message == "no value of `hidden` gives a model; the first says: too deep (`depth < 8`)"


def test_values_that_fail_a_check_on_params_are_passed_over(tmp_path: Path) -> None:
    check = 'check hidden % 128 == 0 else "tensor cores want multiples of 128"'
    (variant,) = solved(tmp_path, f"{check}\n  sweep s {{ solve hidden for cost.params.total == 30M within 0.1 }}")
    assert variant.sound
    assert variant.values["hidden"] % 128 == 0


def test_several_are_solved_one_after_the_other(tmp_path: Path) -> None:
    """The second sees what the first has found; one that a later one moves away is said to miss."""
    order = "solve hidden for cost.params.total == 40M, solve experts for experts * hidden == 16Ki within 0.05"
    (moved,) = solved(tmp_path, f"sweep s {{ {order} }}")
    hidden, experts = moved.solved
    assert experts.left == moved.values["experts"] * moved.values["hidden"]
    assert not hidden.holds
    assert [d.code for d in moved.findings] == ["E0508"]
    assert one(tmp_path, dict(moved.values), "params.total") == hidden.left
    independent = "solve width for width == 128, solve hidden for cost.params.total == 20M"
    (kept,) = solved(tmp_path, f"sweep s {{ {independent} }}")
    assert kept.sound
    assert kept.values["width"] == 128
    assert one(tmp_path, dict(kept.values), "params.total") == kept.solved[1].left
