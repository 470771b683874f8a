"""What is read of a calibration: interpolation, laws of time, and the command without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import archc
from archc import machine
from archc.cli import main
from archc.cost.local import Grid, Rates
from archc.cost.setting import named
from archc.ops.calls import Kind, call, product

BYTES = (256, 4096, 1 << 20, 1 << 26)


def rows_of(rate: float, start: float = 1e-6) -> list[list[float]]:
    """A machine that moves ``rate`` bytes a second after a start."""
    return [[n, start + n / rate] for n in BYTES]


def synthetic() -> dict[str, Any]:
    """A calibration of a machine that does not exist: 100 GFLOP/s, 10 GB/s, 2 us a call."""
    kinds = [kind for kind in get_args(Kind) if kind not in {"product", "attention"}]
    shapes = [(m, k, n) for m in (1, 16, 256) for k in (16, 1024) for n in (16, 1024)]
    products = [[*s, 1e-6 + 2 * s[0] * s[1] * s[2] / 1e11] for s in shapes]
    attention = [[m, n, 64, 1e-6 + 256 * m * n / 1e11] for m in (1, 256) for n in (64, 4096)]
    cold = [[pool, m, 1e-10] for pool in (1 << 22, 1 << 28) for m in (1, 16)]
    return {
        "version": machine.VERSION,
        "default": True,
        "threads": 1,
        "clock": "cpu",
        "cpu": "a machine that does not exist",
        "torch": "0",
        "date": "2000-01-01",
        "figures": {"memory": 1e10, "bandwidth": 1e10, "fp32": 1e11, "bf16": 1e11, "launch": 2e-6},
        "swept": [[1, 2e-6], [1 << 20, 4e-6]],
        "moves": {kind: rows_of(1e10) for kind in kinds},
        "products": {"fp32": products, "bf16": products},
        "batched": {"fp32": products, "bf16": products},
        "attention": dict.fromkeys(("fp32", "bf16", "fp32_causal", "bf16_causal"), attention),
        "cold": {"fp32": cold, "bf16": cold},
    }


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose machine was measured."""
    monkeypatch.setattr(machine, "folder", lambda: tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    machine.save({k: v for k, v in synthetic().items() if k not in {"version", "default"}}, default=True)
    return tmp_path


# --- interpolation -------------------------------------------------------------------------------
def test_a_grid_gives_what_was_measured() -> None:
    rows = [[m, k, 1e-6 * m * k] for m in (1, 8) for k in (2, 32)]
    grid = Grid(rows)
    for m, k, seconds in rows:
        assert grid.at(m, k) == pytest.approx(seconds)


@given(st.floats(1, 64), st.floats(2, 512))
def test_a_power_law_is_interpolated_and_continued_exactly(m: float, k: float) -> None:
    grid = Grid([[a, b, 1e-6 * a * b] for a in (1, 8) for b in (2, 32)])
    assert grid.at(m, k) == pytest.approx(1e-6 * m * k)


def test_a_point_that_was_not_tried_follows_from_smaller_ones() -> None:
    grid = Grid([[1, 1, 1e-6], [4, 1, 4e-6], [1, 4, 4e-6]])
    assert grid.at(4, 4) == pytest.approx(16e-6)


# --- laws ----------------------------------------------------------------------------------------
@given(st.integers(1, 1 << 24), st.integers(1, 1 << 24))
def test_more_bytes_never_take_less(one: int, two: int) -> None:
    rates = Rates(synthetic())
    low, high = sorted((one, two))
    assert rates.seconds(call("map", low, 0), 0, 0) <= rates.seconds(call("map", high, 0), 0, 0) * (1 + 1e-9)


def test_a_call_between_products_takes_no_less_than_one_was_seen_to_take() -> None:
    rates = Rates(synthetic())
    small = call("map", 256, 256)
    assert rates.seconds(small, 0, rates.least(1 << 30, 10)) == pytest.approx(4e-6)
    assert rates.seconds(small, 0, rates.least(0, 10)) == pytest.approx(2e-6)
    # Of the same call many times only the first finds its code gone
    again = call("map", 256, 256, 5)
    assert rates.seconds(again, 0, 4e-6) == pytest.approx(4e-6 + 4 * rates.arithmetic(small))


def test_weights_take_at_least_what_they_take_to_come() -> None:
    rates = Rates(synthetic())
    near, far = (product(1, 1024, 1024, cold=c) for c in (0, 4 << 20))
    assert rates.seconds(near, 1 << 30, 0) == pytest.approx(1e-6 + 2 * 1024**2 / 1e11)
    assert rates.seconds(far, 1 << 30, 0) == pytest.approx((4 << 20) * 1e-10)


# --- the command ---------------------------------------------------------------------------------
def cost(*options: str) -> Any:
    return CliRunner().invoke(main, ["cost", "llama_3_1_8b", "--hardware", "local", *options])


def test_without_a_calibration_it_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "folder", lambda: tmp_path)
    done = cost()
    assert done.exit_code == 2 and "archc bench --calibrate" in done.output


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_times_come_from_the_file(measured: Path, mode: str) -> None:
    done = cost("--mode", mode, "--seq", "1", "--context", "512", "--format", "json")
    assert done.exit_code == 0, done.output
    time = json.loads(done.output)["time"]
    assert time["total_s"] == pytest.approx(sum(time["parts"].values()))
    assert time["communication_s"] == 0 < time["compute_s"] < time["total_s"]
    assert time["bound"] == "products"


def test_training_and_plans_are_not_priced(measured: Path) -> None:
    for options in (("--mode", "train"), ("--parallel", "dp=2")):
        done = cost(*options)
        assert done.exit_code == 2 and "Error" in done.output and "internal" not in done.output


def test_the_machine_at_hand_is_hardware(measured: Path) -> None:
    found = named(archc.load("llama_3_1_8b"), "local")
    assert found is not None and (found.kind, found.bf16, found.memory) == ("local", 1e11, 1e10)


def test_the_threads_that_pytorch_would_use(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {k: v for k, v in synthetic().items() if k not in {"version", "default"}} | {"threads": 3}
    machine.save(other, default=False)
    assert (machine.load() or {})["threads"] == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (machine.load() or {})["threads"] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert machine.load() is None


def test_half_a_file_is_none(measured: Path) -> None:
    (measured / "1_threads.json").write_text('{"version": 1, "threads"')
    assert machine.load() is None


@pytest.mark.parametrize("arguments", [[], ["llama_3_1_8b"]])
def test_bench_says_what_there_is(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, ["bench", *arguments])
    assert done.exit_code == 2 and "--calibrate" in done.output
