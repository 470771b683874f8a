"""`archc demo`, as a stranger sees it."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from archc.cli import main
from archc.cli._demo import training
from archc.cli._demo.text import corpus
from archc.cli.demo import NEXT, SPEC


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a demo of a few seconds prints to a pipe, and where it ran."""
    folder = tmp_path_factory.mktemp("demo")
    ran = subprocess.run(
        [sys.executable, "-m", "archc", "demo", "--seconds", "8"],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout, folder


def test_it_shows_the_loss(shown: tuple[str, Path]) -> None:
    rows = re.findall(r"^ *([\d,]+)  +(\d\.\d+)  +(\d\.\d+)", shown[0], re.MULTILINE)
    steps, trained, held_out = ([float(cell.replace(",", "")) for cell in column] for column in zip(*rows, strict=True))
    assert steps[0] == 0
    # Untrained, the twin guesses among its 512 tokens: log 512 = 6.24
    assert held_out[0] == pytest.approx(6.24, abs=0.1)
    # How many steps fit into the time is the machine's affair; each one helps.
    assert held_out[-1] < held_out[0]
    assert trained[-1] < trained[0]


def test_the_loss_falls(shown: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is counted in steps here, so that it falls as far on a busy machine."""
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    threads = torch.get_num_threads()
    try:
        model = training.load_model(shown[1] / "build" / "demo" / "tiny" / "deepseek_v3")
        first, *_, last = training.train(model, corpus(), seconds=25, checks=1)
    finally:
        torch.set_num_threads(threads)
    assert last.step == 25
    assert first.held_out is not None and last.held_out is not None
    assert last.held_out < first.held_out - 1


def test_it_shows_the_full_model_and_writes_both_packages(shown: tuple[str, Path]) -> None:
    text, folder = shown
    for expected in (
        "671,026,404,352",
        "$ archc check deepseek_v3",
        "$ archc cost deepseek_v3",
        "latent_attend(",
        "grouped_linear(rows, gate_up_proj, ends)",
    ):
        assert expected in text
    for package in ("deepseek_v3", "tiny/deepseek_v3"):
        assert (folder / "build" / "demo" / package / "model.py").is_file()
    assert "\x1b" not in text, "escape sequences belong to terminals"
    said, _, _ = text.partition("It continues sentences")
    assert max(map(len, said.splitlines())) < 120


def test_drafts_save_passes_and_change_nothing(shown: tuple[str, Path]) -> None:
    told = re.search(
        r"(\d+) passes one by one, (\d+) with 2 drafts a pass,\nof which (\d+)% were right; the same bytes", shown[0]
    )
    assert told is not None
    alone, drafted, right = map(int, told.groups())
    assert alone == 220
    # Every pass gives one token and those of its drafts that were right
    assert 220 / 3 <= drafted <= alone
    assert (drafted < alone) == (right > 0)


@pytest.mark.parametrize("words", [words for words, _ in NEXT if not words.startswith("test")])
def test_what_it_says_to_try_next_works(words: str) -> None:
    result = CliRunner().invoke(main, words.format(spec=SPEC, out="build/demo").split())
    assert result.exit_code == 0, result.output


def test_it_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from archc.cli import _needs

    monkeypatch.setattr(_needs, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "671,026,404,352" in result.output, "what needs no torch runs first"
    assert "pip install torch safetensors" in result.output


def test_held_out_text_is_never_trained_on() -> None:
    text = corpus()
    assert len(text.train) > 200_000
    assert len(text.held_out) > 10 * training.COLUMNS
    pieces = [piece for piece in text.held_out.split(b"\n\n") if len(piece) > 60]
    assert len(pieces) > 100
    assert not [piece for piece in pieces if piece in text.train]


def test_batches_are_text_and_repeat() -> None:
    ids = training.as_ids(bytes(range(256)) * 4)
    first, again = (training.sample(ids, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (5, training.COLUMNS)
    assert torch.equal(first, again)
    assert all(bytes(row.tolist()) in bytes(range(256)) * 4 for row in first)


def test_the_learning_rate_warms_up_and_falls() -> None:
    assert training.rate(0, 0.0) == pytest.approx(training.RATE / training.WARM_UP)
    assert training.rate(training.WARM_UP, 0.0) == pytest.approx(training.RATE)
    rates = [training.rate(1000, done / 10) for done in range(11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(training.RATE * training.FLOOR)


def test_the_shown_loss_is_an_average() -> None:
    average = 0.0
    for step, loss in enumerate([4.0, 2.0, 3.0], 1):
        average = training.smoothed(average, loss, step)
    assert average == pytest.approx(3.0)
    for step in range(4, 400):
        average = training.smoothed(average, 1.0, step)
    assert average == pytest.approx(1.0, abs=1e-4)
